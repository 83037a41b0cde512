"""The nouns of the field: images, batches, threats, classifiers, and what a routed model must offer an attacker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self, cast, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dwf.core.seeds import Noise
from dwf.core.settings import Length, Settings, fraction

Classifier = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) float in [0, 1] -> logits (B, classes). An nn.Module, one expert, a lambda: all qualify."""


Compile = Literal["auto", "always", "never"]
"""Whether nets become generated code: `auto` compiles where it can be done and the work is long enough to gain."""


class Spec(Settings):
    """What a model must know of its data. Normalisation is the model's first layer, so nobody else needs mean and std."""

    classes: tuple[str, ...] = Field(min_length=2)
    """Class names in label order."""
    channels: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    mean: tuple[float, ...]
    """Per channel, of pixels in [0, 1]."""
    std: tuple[Annotated[float, Field(gt=0)], ...]
    """Per channel, of pixels in [0, 1]."""

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"{self.channels} channels need as many means and deviations, not {len(self.mean)} and {len(self.std)}"
            )
        return self


Recompute = Literal["never", "learning", "always"]
"""When a bank of experts keeps no activations and computes each expert again in the backward pass, so that those of one expert are
alive at a time: never; in training mode, for the parameters' gradients; or for an attack's input gradients too."""


@runtime_checkable
class Recomputes(Protocol):
    """A part of a model that can do so."""

    recompute: Recompute


@dataclass(frozen=True)
class Images:
    """A whole data set in memory, as bytes."""

    pixels: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N,) int64."""
    classes: tuple[str, ...]
    index: Tensor
    """(N,) int64: the row of each image in its source; keys all noise, so a subset keeps its images' noise."""
    name: str
    sha256: str
    """Of pixels and labels, in source order."""
    skipped: int = 0
    """Bad entries that the user asked to skip."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> Images:
        """The images at positions `rows` (int64), in that order; name and checksum stay those of the source."""
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows], index=self.index[rows])

    def to(self, device: torch.device) -> Images:
        """The same on another device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device), index=self.index.to(device))


@dataclass(frozen=True)
class Batch:
    """Images ready for a model."""

    x: Tensor
    """(B, C, H, W) float32 in [0, 1], channels_last."""
    y: Tensor
    """(B,) int64."""
    index: Tensor
    """(B,) int64, rows in the source."""


class Threat(Settings):
    """What the adversary may do to an image: move it by at most `eps` in `norm`, inside the pixel box [0, 1]."""

    norm: Literal["linf", "l2"] = "linf"
    eps: Length = 8 / 255
    """Radius. Linf: a share of the pixel range, below 1. L2: the length of the whole perturbation in units of that range."""
    scale: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Linf only: a factor of the radius for each channel. The deviations of a standardised space make `eps` a radius there."""

    @model_validator(mode="after")
    def _share(self) -> Self:
        if self.norm == "linf":
            fraction(self.eps)
        elif self.scale is not None:
            raise ValueError(
                f"'scale' stretches the radius of channels, which norm '{self.norm}' has not; leave it out or set 'norm' to 'linf'"
            )
        return self


CROSSING = 2.5
"""The steps of PGD together are at least this many radii, so that it can cross the ball from any start."""


def usual_step(threat: Threat) -> float:
    """The step of the literature: 2/255 for Linf, but at most a quarter of the radius; a quarter for L2."""
    return min(2 / 255, threat.eps / 4) if threat.norm == "linf" else threat.eps / 4


def default_step(settings: Mapping[str, Any]) -> float:
    """For settings with `threat` and `steps`: the usual step, longer where so few could not cross the ball."""
    threat, steps = cast(Threat, settings["threat"]), cast(int, settings["steps"])
    return max(usual_step(threat), CROSSING * threat.eps / steps)


class Attack(Protocol):
    """Frozen settings: no state, and no model inside."""

    @property
    def threat(self) -> Threat:
        """What the attack is allowed to do."""
        ...

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) float in [0, 1], y (B,), target (B,) classes to reach or None -> adversarial images like x."""
        ...


class Routing(NamedTuple):
    """How a mixture reached its decision."""

    logits: Tensor
    """(B, classes), the prediction."""
    weights: Tensor
    """(B, K), rows sum to 1."""
    opinions: Tensor
    """(B, K, classes), each expert's logits."""


@runtime_checkable
class Routed(Protocol):
    """Mixtures, soft or hard: what an attacker of the routing needs."""

    def route(self, x: Tensor) -> Routing:
        """Prediction, weights and opinions for x (B, C, H, W) in [0, 1]."""
        ...

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        """The same with a selection that is differentiable in the routing, softer for a higher `temperature`."""
        ...

    def expert(self, x: Tensor, number: int) -> Tensor:
        """The logits (B, classes) of one expert, 0 <= number < K, at the cost of that expert alone."""
        ...


@runtime_checkable
class Switched(Routed, Protocol):
    """Mixtures that draw at every pass which expert each of the gate's weights goes to, from torch's own generator."""

    @property
    def permutations(self) -> Sequence[tuple[int, ...]]:
        """What is drawn from, the trained assignment first; where those are too many to be tried one by one, some of them."""
        ...

    def fixed(self, permutation: Sequence[int]) -> nn.Module:
        """The model with one of them at every pass: `Routed` like itself, and deterministic. Shares its weights."""
        ...


@runtime_checkable
class Certifiable(Protocol):
    """Models that can prove how far an image may move before their answer changes."""

    def certified(self, x: Tensor, norm: Literal["linf", "l2"]) -> Tensor:
        """(B,) radii for x (B, C, H, W) in [0, 1] inside which the class provably stays, by upper bounds; 0 proves nothing.

        Raises `Refused` for a model whose bounds are not known.
        """
        ...
