"""What a phase costs an image, before it is trained: operations and memory counted on a few images, time on a few batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dwf.core.seeds import Noise
from dwf.core.types import Batch
from dwf.training.footprint import Footprint, tellable
from dwf.training.loop import advance, holding
from dwf.training.mover import Mover
from dwf.training.plan import Draw, Phase

FEW = 8
"""Images of a first timing, from which the size of the next one follows."""


class Middling(Random):
    """Draws steps of middling length, again and again."""

    def choice(self, seq: Any) -> Any:
        """The number in `seq` that is nearest to the mean of all."""
        return min(seq, key=lambda number: abs(number - fmean(seq)))


class Shortest(Random):
    """Draws the shortest steps: more of them need no more memory."""

    def choice(self, seq: Any) -> Any:
        """The least number in `seq`."""
        return min(seq)


MIDDLING = Middling(0)


@dataclass(frozen=True)
class Load:
    """Of one phase, on the device of its subject."""

    flops: float
    """Floating-point operations for each clean image: products and sums of convolutions and matrices, attacks included."""
    memory: Footprint
    """Bytes alive in a step, besides the model's own."""
    seconds: float
    """For each clean image."""


class Count(NamedTuple):
    """Of one step."""

    flops: float
    memory: Footprint
    optimizers: int
    """Bytes that optimizers keep from step to step, which `memory` holds too."""


def calibrate(phase: Phase, batch: Batch, precision: torch.dtype, budget: float) -> Load:
    """Run `phase` on parts of `batch` for about `budget` seconds. Its subject learns from them: hand over one that nobody needs."""
    rows = min(len(batch.y), tellable(phase.subject))
    count = counted(phase, _first(batch, rows), precision)

    def work(images: int) -> None:
        whole, rest = divmod(images, len(batch.y))
        for _ in _updates(phase, [batch] * whole + ([_first(batch, rest)] if rest else []), precision, _movers(phase)):
            pass
        if batch.x.is_cuda:
            torch.cuda.synchronize()

    with holding(phase):
        seconds = paced(work, 4 * len(batch.y), budget)
    return Load(count.flops / rows, count.memory, seconds)


def paced(work: Callable[[int], None], most: int, budget: float) -> float:
    """Seconds an image of `work(images)`, on as many images as fit in `budget` seconds, but not more than `most`."""
    few = min(FEW, most)
    work(few)  # the first time is nobody's
    seconds = _timed(work, few)
    images = min(most, int(few * budget / max(seconds, 1e-9)))
    return _timed(work, images) / images if images > few else seconds / few


def _timed(work: Callable[[int], None], images: int) -> float:
    began = time.perf_counter()
    work(images)
    return time.perf_counter() - began


def _first(batch: Batch, rows: int) -> Batch:
    return Batch(batch.x[:rows], batch.y[:rows], batch.index[:rows])


@dataclass(frozen=True)
class _Few:
    """A round of given batches (`plan.Batches`)."""

    batches: Sequence[Batch]
    precision: torch.dtype
    random: Random

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Draw]:
        for number, batch in enumerate(self.batches):
            yield Draw(batch.x, batch.y, Noise(number, batch.index), self.random)


def _movers(phase: Phase) -> dict[str, Mover]:
    return {name: Mover(learner) for name, learner in phase.learners.items()}


def _updates(
    phase: Phase, batches: Sequence[Batch], precision: torch.dtype, movers: Mapping[str, Mover], random: Random = MIDDLING
) -> Iterator[None]:
    """The steps of the loop, without its journal and checkpoints."""
    phase.subject.train()
    for module in phase.frozen:
        module.eval()
    updates = phase.round(phase.subject, _Few(batches, precision, random))
    while (update := advance(updates, precision, batches[0].x.device)) is not None:
        movers[update.learner].take(update, 0.0)
        yield


def counted(phase: Phase, batch: Batch, precision: torch.dtype, random: Random = MIDDLING) -> Count:
    """Operations and memory of a step on `batch`, which the subject takes; optimizers are past their first step by then."""
    with holding(phase), Footprint(phase.subject, len(batch.y)) as memory:
        movers = _movers(phase)
        for mover in movers.values():
            mover.begin()
        with _Operations() as operations:
            for _ in _updates(phase, [batch], precision, movers, random):
                pass
        return Count(operations.flops, memory, sum(mover.kept for mover in movers.values()))


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what runs inside. PyTorch's own counter follows modules too, and breaks where a gradient stops at an image."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and add what PyTorch's table says of it."""
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        return out
