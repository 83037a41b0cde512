"""The contract between a method and the loop. No behaviour: a method says what to learn, the loop does it.

A method is settings plus one generator per phase. The generator attacks and computes losses; each `Update` that it yields asks
the loop for one optimizer step. Its local variables die with the round, so a checkpoint between rounds is complete. No context
manager may span a `yield`: an autocast left open would leak into the loop and keep stale casts of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dwf.core.seeds import Noise
from dwf.core.types import Batch, Spec
from dwf.training.optim import Optimizer, Schedule


class Update(NamedTuple):
    """Asks the loop for one optimizer step."""

    loss: Tensor
    """Scalar, mean over the local batch."""
    learner: str = "all"
    """Whose parameters move; nobody else's .grad is written."""
    also: tuple[Tensor, ...] = ()
    """Further leaves that receive .grad (Free-AT's perturbation)."""
    log: Mapping[str, Tensor] = {}
    """Detached scalars for the journal, averaged over those updates of the round that name them."""


class Passes(NamedTuple):
    """Passes of what a phase trains, for each clean image of an epoch, the attacks' among them."""

    forwards: float
    backwards: float
    """A backward pass for the input's gradient alone counts like any other."""


class Group(NamedTuple):
    """Parameters that share a learning rate."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float | None = None
    """None: the optimizer's own."""


@dataclass(frozen=True)
class Learner:
    """Parameters with the optimizer and schedule that move them."""

    groups: Sequence[Group]
    optimizer: Optimizer
    schedule: Schedule


@dataclass(frozen=True)
class Draw:
    """One training batch with the randomness that belongs to it."""

    x: Tensor
    """(B, C, H, W) float32 in [0, 1]."""
    y: Tensor
    """(B,) int64."""
    noise: Noise
    """For attacks: keyed by phase, round, batch and sample."""
    random: Random
    """For choices that hold for the whole batch (eps, K): the same on every rank."""
    progress: float
    """How far the phase is, in [0, 1): a function of round and batch, the same on every rank."""


class Batches(Protocol):
    """One round's batches as a phase sees them."""

    @property
    def precision(self) -> torch.dtype:
        """What the forward passes compute in; attack copies are made in it."""
        ...

    def __iter__(self) -> Iterator[Draw]: ...

    def __len__(self) -> int: ...


class Feed(Protocol):
    """Where batches come from: one epoch is a fixed function of its number."""

    def epoch(self, number: int, part: int = 0, of: int = 1) -> Sized:
        """The batches of epoch `number`, or of one `part` of it."""
        ...


class Sized(Protocol):
    """Batches whose number is known."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __len__(self) -> int: ...


def kind_of(phase: str) -> str:
    """A phase's name without an expert's number, as `Method.cost` calls it: `pgd` for `pgd-3`."""
    return phase.rstrip("-0123456789")


@dataclass(frozen=True)
class Phase:
    """One thing to train."""

    name: str
    subject: nn.Module
    """The sub-module that this phase trains, validates and stores under phases/<name>/: one expert, or the whole."""
    rounds: int
    """How often `round` is called: epochs times `parts`."""
    batch: int
    """Clean images a step, over all ranks."""
    learners: Mapping[str, Learner]
    round: Callable[[nn.Module, Batches], Iterator[Update]]
    needs: tuple[str, ...] = ()
    """Phases that come first. What needs nothing may run anywhere, side by side."""
    parts: int = 1
    """Rounds that make one epoch; `rounds` counts them all."""
    frozen: tuple[nn.Module, ...] = ()
    """Parts of the subject that stay as they are: no gradient, batch-norm on its running statistics."""
    ignores: tuple[str, ...] = ()
    """Settings of the method that change nothing of what this phase makes of its subject's first weights. Two runs in which it
    ignores the same, and that differ in these alone, can share the finished phase; a setting that is not named decides."""
    start: nn.Module | None = None
    """The subject of a phase that this one needs, whose finished weights become the first ones of its own (a warm start)."""
    goal: Literal["ra", "sa"] = "ra"
    """What it is to be good at on the validation split: a phase that sees clean images alone has no RA to speak of."""
    grows: bool = False
    """Whether a step costs more as the phase goes on (`Draw.progress`): what it costs is then counted at several moments."""

    @property
    def kind(self) -> str:
        """`pgd` for `pgd-3`."""
        return kind_of(self.name)

    @property
    def likeness(self) -> Hashable:
        """Phases of one model that agree in this cost the same a step."""
        moved = tuple((name, repr(learner.optimizer)) for name, learner in self.learners.items())
        parameters = sum(p.numel() for p in self.subject.parameters())  # some stand in no layer that a net's text names
        return self.kind, str(self.subject), parameters, self.batch, moved


class Method(Protocol):
    """Frozen settings; its fields are its hyper-parameters."""

    def model(self, spec: Spec) -> nn.Module:
        """A freshly initialised model: (B, C, H, W) in [0, 1] -> logits."""
        ...

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """What to train, in an order in which every phase comes after those that it needs."""
        ...

    def cost(self) -> Mapping[str, Passes]:
        """What each phase costs, by its name without an expert's number (`fgsm-1`: `fgsm`); a drawn K counts by its mean."""
        ...
