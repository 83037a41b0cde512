"""What an attack is shown instead of the whole model: its experts, its routing, a softer copy, another model.

Each view is settings that turn a victim and the clean images into a classifier to ascend. The verdict stays the whole original's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from dwf.core.types import Classifier
from dwf.evaluation.mixing import rule, summed, voted
from dwf.evaluation.victim import Victim

Temperature = Annotated[float, Field(gt=0)]
"""Divides logits; above 1 it softens."""


class View(Protocol):
    """A frozen dataclass; its fields go into the result file."""

    def __call__(self, victim: Victim, x: Tensor) -> Classifier:
        """Victim and clean images (B, C, H, W) -> images (B, C, H, W) -> logits (B, classes) to ascend."""
        ...


@dataclass(frozen=True)
class Whole:
    """The model as it is."""

    def __call__(self, victim: Victim, x: Tensor) -> Classifier:
        """The fast copy."""
        return victim.copy


WHOLE = Whole()


@dataclass(frozen=True)
class FrozenRouting:
    """RA-E (METHODS 0): the experts, weighted as on the clean image. Holds for these very images, in this order."""

    def __call__(self, victim: Victim, x: Tensor) -> Classifier:
        """sum_i w_i(x) f_i(x'), or log sum_i w_i(x) softmax f_i(x') where the model mixes probabilities."""
        routed = victim.routed
        with torch.no_grad():
            clean = routed.route(x)
        mix = rule(clean) or summed
        return victim.through(lambda moved: mix(clean.weights, routed.route(moved).opinions), victim.shares(x).every)


@dataclass(frozen=True)
class WeightedLogits:
    """Raw logits under the gate's weights, whatever a model makes of its experts' outputs afterwards."""

    def __call__(self, victim: Victim, x: Tensor) -> Classifier:
        """sum_i w_i(x') f_i(x')."""
        routed = victim.routed

        def classifier(moved: Tensor) -> Tensor:
            routing = routed.route(moved)
            return summed(routing.weights, routing.opinions)

        return victim.through(classifier, victim.shares(x).every)


@dataclass(frozen=True)
class Expert:
    """One expert by itself."""

    number: int

    def __call__(self, victim: Victim, x: Tensor) -> Classifier:
        """f_i(x'), at its own price."""
        routed, number = victim.routed, self.number
        return victim.through(lambda moved: routed.expert(moved, number), victim.shares(x).alone[number])


@dataclass(frozen=True)
class Softened:
    """The copy with its gate's and its experts' logits divided by temperatures, where saturated ones hide their gradients."""

    gate: float
    experts: float

    def __call__(self, victim: Victim, x: Tensor) -> Classifier:
        """log sum_i w_i(x'; T_gate) softmax(f_i(x') / T_experts): each expert's doubts count, not only the loudest one's."""
        routed, gate, experts = victim.routed, self.gate, self.experts

        def classifier(moved: Tensor) -> Tensor:
            routing = routed.surrogate(moved, gate)
            return voted(routing.weights, routing.opinions.float() / experts)

        return victim.through(classifier, victim.shares(x).every)


@dataclass(frozen=True)
class Surrogate:
    """The model with a selection that is differentiable in the routing: what a hard router hides."""

    temperature: float

    def __call__(self, victim: Victim, x: Tensor) -> Classifier:
        """The surrogate's logits."""
        routed, temperature = victim.routed, self.temperature
        return victim.through(lambda moved: routed.surrogate(moved, temperature).logits, victim.shares(x).every)


@dataclass(frozen=True)
class Another:
    """Another model, by its name among the victim's surrogates."""

    name: str

    def __call__(self, victim: Victim, x: Tensor) -> Classifier:
        """That model's fast copy."""
        return victim.surrogates[self.name]
