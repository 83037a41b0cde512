"""One round's batches as a phase sees them, each with the randomness that belongs to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import torch

from dwf.core.seeds import Noise, derive
from dwf.training.plan import Draw, Sized


@dataclass
class Round:
    """What `plan.Batches` promises."""

    batches: Sized
    seed: int
    precision: torch.dtype
    number: int
    """Of the round, from 0."""
    of: int
    """Rounds that the phase has."""
    parts: int = 1
    """Pieces that each drawn batch comes in (gradient accumulation): they share its choices."""
    done: int = 0

    @property
    def progress(self) -> float:
        """How far the phase is, in [0, 1), before the present batch is done, with all its pieces."""
        return self._progress(self.done // self.parts * self.parts)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Draw]:
        for number, batch in enumerate(self.batches):
            whole = number // self.parts
            noise = Noise(derive(self.seed, "noise", number), batch.index)
            yield Draw(batch.x, batch.y, noise, Random(derive(self.seed, whole)), self._progress(whole * self.parts))
            self.done = number + 1

    def _progress(self, batches: int) -> float:
        return (self.number + batches / len(self)) / self.of
