"""What a phase does to stay below a memory cap: what changes nothing first, smaller parts of each batch where that is not enough.

In this order: nothing; freed memory given back at once; the experts of a bank computed again one by one for the parameters'
gradients, then for the attacks' too (`ExpertBank.recompute`: the same gradients and statistics for one more forward pass); and each
batch in parts, as few as will do, which is no longer the same training: batch-norm sees a part. Validation takes as many images at
once as there is room for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from torch import nn

from dwf.core.heap import give_back
from dwf.core.settings import sized
from dwf.core.types import Recompute, Recomputes
from dwf.training.footprint import Footprint

MODES: tuple[Recompute, ...] = get_args(Recompute)
VALIDATION, FEWEST = 250, 8
"""Images of a validation pass where nothing is short, and at the least."""
TIGHT, LOOSE = 1.05, 1.5
"""Memory taken for each byte that is counted, where freed memory is given back at once and where the allocator keeps some of it.
Measured for nets of width 16 and 64: at most 1.02, and 1.1 to 1.4."""


@dataclass(frozen=True)
class Measures:
    """Of one phase."""

    thrifty: bool = False
    """Freed memory is given back at once, which takes time where tensors are small."""
    recompute: Recompute = "never"
    parts: int = 1
    """Pieces of each batch, besides those of `train.accumulate`."""
    validation: int = VALIDATION
    """Images of a validation pass."""
    expected: int = 0
    """Bytes of the whole process at the worst moment."""

    def said(self) -> str:
        """In words, for a terminal."""
        when = {"never": "", "learning": "to learn", "always": "to attack and to learn"}[self.recompute]
        does = [
            *(["gives memory back at once"] if self.thrifty else []),
            *([f"computes its experts again one by one {when}"] if when else []),
            *([f"cuts batches into {self.parts} parts, of which batch-norm sees one at a time"] if self.parts > 1 else []),
        ]
        return f"takes about {sized(self.expected)}" + (f": {', '.join(does)}" if does else "")

    def apply(self, subject: nn.Module) -> None:
        """Tell the allocator, and every bank of the phase's subject."""
        give_back(at_once=self.thrifty)
        for module in recomputing(subject):
            module.recompute = self.recompute


@dataclass(frozen=True)
class Demand:
    """What a phase takes when its experts are computed again to some degree. All in bytes."""

    before: int
    """Of the process before there is a model."""
    model: int
    """Weights and buffers of the whole model, of its best round and of its moving average."""
    step: Footprint
    optimizers: int
    """Kept from step to step; part of `step` already."""
    validation: Footprint
    between: int
    """Beside the optimizers' while no activation is alive: copies for a checkpoint; gradients and the message to other ranks."""
    waiting: int = 0
    """Gradients that the first pieces of a batch leave for the last."""
    accumulates: bool = False
    """Whether batches come in pieces even if they are not cut here."""

    def learning(self, images: int, share: float, *, cut: bool = False) -> int:
        """At the worst moment of a step, or after it, with pieces of so many images. `share`: `TIGHT` or `LOOSE`."""
        waiting = self.waiting if cut or self.accumulates else 0
        return self._whole(max(waiting + self.step.peak(images), self.optimizers + self.between), share)

    def validating(self, images: int, share: float) -> int:
        """At the worst moment of a validation pass on so many images."""
        return self._whole(self.optimizers + self.validation.peak(images), share)

    def _whole(self, extra: int, share: float) -> int:
        return self.before + round(share * (self.model + extra))


def recomputing(subject: nn.Module) -> list[Recomputes]:
    """The parts of a model that can compute again what they forgot."""
    return [module for module in subject.modules() if isinstance(module, Recomputes)]


def choose(
    cap: int,
    demand: Callable[[Recompute], Demand],
    *,
    modes: Sequence[Recompute],
    batch: int,
    parts: Sequence[int],
    least: Measures,
) -> Measures:
    """The cheapest measures with which a phase stays below `cap` bytes; where there are none, those that need least.

    `demand` is asked only as far as needed. `batch`: images of a step here; `parts`: numbers of pieces that it may come in, from 1
    up. `least`: what is always done once something is short, and the largest validation pass.
    """
    known = {"never": demand("never")}
    plain = max(known["never"].learning(batch, LOOSE), known["never"].validating(least.validation, LOOSE))
    if plain <= cap:
        return Measures(validation=least.validation, expected=plain)
    smallest: Measures | None = None
    for pieces in parts:
        for mode in modes:
            if mode not in known:
                known[mode] = demand(mode)
            found = _fitted(cap, known[mode], replace(least, recompute=mode, parts=pieces), batch // pieces)
            if found.expected <= cap:
                return found
            smallest = found if smallest is None or found.expected < smallest.expected else smallest
    assert smallest is not None
    return smallest


def _fitted(cap: int, demand: Demand, measures: Measures, images: int) -> Measures:
    """With the largest validation pass that stays below the cap; with the smallest where none does."""
    validation, tight = measures.validation, TIGHT if measures.thrifty else LOOSE
    while validation > FEWEST and demand.validating(validation, tight) > cap:
        validation = max(FEWEST, validation // 2)
    expected = max(demand.learning(images, tight, cut=measures.parts > 1), demand.validating(validation, tight))
    return replace(measures, validation=validation, expected=expected)
