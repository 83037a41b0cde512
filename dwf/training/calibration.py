"""What a phase costs an image, before it is trained: operations and memory counted on a few images, time on a few batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from math import floor
from random import Random
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from dwf.core.seeds import Noise
from dwf.core.types import Batch
from dwf.training.footprint import Footprint, tellable
from dwf.training.loop import advance, holding
from dwf.training.mover import Mover
from dwf.training.plan import Draw, Phase

_Numbers = NDArray[np.float64]

COUNTED = 10
"""Images of a step whose operations are counted: of them tenths of a batch, which a method may attack alone, are whole images."""
FEW = 8
"""Images of a first timing, from which the size of the next one follows."""
MOMENTS = 8
"""Of a phase whose steps grow, at which they are counted."""


@dataclass(frozen=True)
class Load:
    """Of one phase, on the device of its subject."""

    flops: float
    """Floating-point operations for each clean image: products and sums of convolutions and matrices, attacks included."""
    memory: Footprint
    """Bytes alive in a step, besides the model's own."""
    seconds: float
    """For each clean image."""
    products: float
    """Of a step, however large its batch: convolutions and matrix products, each of which a GPU is told to do by itself."""


def calibrate(phase: Phase, batch: Batch, precision: torch.dtype, budget: float) -> Load:
    """Run `phase` on parts of `batch` for about `budget` seconds. Its subject learns from them: hand over one that nobody needs."""
    rows = min(len(batch.y), COUNTED)
    operations = counted(phase, _first(batch, rows), precision)
    memory = kept(phase, _first(batch, min(len(batch.y), tellable(phase.subject))), precision).memory

    def work(images: int) -> None:
        for _ in _updates(phase, _One(_first(batch, images), precision), _movers(phase)):
            pass
        if batch.x.is_cuda:
            torch.cuda.synchronize()

    with holding(phase):
        seconds = paced(work, len(batch.y), budget) * operations.flops / max(operations.typical, 1)
    return Load(operations.flops / rows, memory, seconds, operations.products)


def paced(work: Callable[[int], None], whole: int, budget: float) -> float:
    """Seconds an image of `work(images)`: the median of up to four calls on `whole` images, or on as many as `budget` allows.

    The quickest would be a moment's: over the minutes of a run two cores were a fifth slower. What nets are compiled for by a first
    call is not counted.
    """
    few = min(FEW, whole)
    with torch.compiler.set_stance("force_eager"):
        work(few)
        seconds = _timed(work, few) / few
    images = max(few, min(whole, int(budget / max(seconds, 1e-9))))
    work(images)
    took = _timed(work, images)
    return median([took, *(_timed(work, images) for _ in range(min(3, int(budget / max(took, 1e-9)))))]) / images


def _timed(work: Callable[[int], None], images: int) -> float:
    began = time.perf_counter()
    work(images)
    return time.perf_counter() - began


def _first(batch: Batch, rows: int) -> Batch:
    return Batch(batch.x[:rows], batch.y[:rows], batch.index[:rows])


class _Middling(Random):
    """A step of middling length. Of whole numbers (of an attack's steps) it takes `instead`, or the one below their mean."""

    def __init__(self, instead: int | None = None) -> None:
        super().__init__(0)
        self.instead = instead
        self.mean: float | None = None

    def choice(self, seq: Any) -> Any:
        """What is next to the mean of `seq`, which need not be in it; `mean` remembers that of whole numbers."""
        mean = fmean(seq)
        if not all(isinstance(number, int) for number in seq):
            return min(seq, key=lambda number: abs(number - mean))
        self.mean = mean
        return floor(mean) if self.instead is None else self.instead


class _Shortest(Random):
    """The shortest steps: more of them need no more memory."""

    def choice(self, seq: Any) -> Any:
        """The least in `seq`."""
        return min(seq)


@dataclass(frozen=True)
class _One:
    """A round of one batch (`plan.Batches`)."""

    batch: Batch
    precision: torch.dtype
    random: Random = field(default_factory=_Middling)
    progress: float = 0.5

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Draw]:
        batch = self.batch
        yield Draw(batch.x, batch.y, Noise(0, batch.index), self.random, self.progress)


def _movers(phase: Phase) -> dict[str, Mover]:
    return {name: Mover(learner) for name, learner in phase.learners.items()}


def _updates(phase: Phase, one: _One, movers: Mapping[str, Mover]) -> Iterator[None]:
    """The steps of the loop, without its journal and checkpoints."""
    phase.subject.train()
    for module in phase.frozen:
        module.eval()
    updates = phase.round(phase.subject, one)
    while (update := advance(updates, one.precision, one.batch.x.device)) is not None:
        movers[update.learner].take(update, 0.0)
        yield


class Counted(NamedTuple):
    """Operations of steps on one batch."""

    flops: float
    """Of a step in the mean: they grow in proportion to a drawn number of steps."""
    products: float
    """Convolutions and matrix products, in the mean too."""
    typical: float
    """Of the one step that is timed."""


def counted(phase: Phase, batch: Batch, precision: torch.dtype) -> Counted:
    """Count the steps of `phase` on `batch`, which its subject takes.

    What grows with a number of steps that is drawn does so in proportion: it is counted at one step and at two, however many are
    meant. A phase whose steps grow is counted at the numbers that it would draw.
    """
    if not phase.grows:
        mean, typical = _long(phase, batch, precision, 0.5, 1)
        return Counted(float(mean[0]), float(mean[1]), float(typical[0]))
    moments = [(number + 0.5) / MOMENTS for number in range(MOMENTS)]
    flops, products = np.mean([_long(phase, batch, precision, moment)[0] for moment in moments], 0).tolist()
    return Counted(flops, products, typical=float(_step(phase, _One(batch, precision))[0]))


def _long(phase: Phase, batch: Batch, precision: torch.dtype, moment: float, steps: int | None = None) -> tuple[_Numbers, _Numbers]:
    """Operations and products of the mean step and of the one that is timed, from two steps, of which `steps` is the shorter."""
    draw = _Middling(steps)
    shorter = _step(phase, _One(batch, precision, draw, moment))
    if draw.mean is None:
        return shorter, shorter
    timed = floor(draw.mean)
    steps = timed if steps is None else steps
    each = 0 if draw.mean == steps else _step(phase, _One(batch, precision, _Middling(steps + 1), moment)) - shorter
    return shorter + (draw.mean - steps) * each, shorter + (timed - steps) * each


def _step(phase: Phase, one: _One) -> _Numbers:
    """Operations and products of a step (2,)."""
    with holding(phase), _layer_by_layer(), _Operations() as operations:
        for _ in _updates(phase, one, _movers(phase)):
            pass
    return np.array([operations.flops, operations.products])


class Kept(NamedTuple):
    """Memory of a step."""

    memory: Footprint
    optimizers: int
    """Bytes that optimizers keep from step to step, which `memory` holds too."""


def kept(phase: Phase, batch: Batch, precision: torch.dtype) -> Kept:
    """What a step on `batch` keeps alive, which the subject takes; optimizers are past their first step by then.

    On layers one by one, whether nets are compiled or not: benchmarks/memory.py holds both against it.
    """
    with holding(phase), _layer_by_layer(), Footprint(phase.subject, len(batch.y)) as memory:
        movers = _movers(phase)
        for mover in movers.values():
            mover.begin()
        for _ in _updates(phase, _One(batch, precision, _Shortest(0)), movers):
            pass
        return Kept(memory, sum(mover.kept for mover in movers.values()))


def _layer_by_layer() -> AbstractContextManager[Any]:
    """Generated code cannot be looked into."""
    eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what runs inside. PyTorch's own counter follows modules too, and breaks where a gradient stops at an image.

    A product or convolution is told from its shapes and not carried out: what it would make is zeros. A step of nine ResNet-18
    is counted in seconds so, also where bf16 is emulated, which takes ten minutes.
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # late: it brings Triton

        super().__init__()  # type: ignore[no-untyped-call]
        self.flops, self.products, self.known = 0.0, 0, flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run what counts for nothing; of the rest add what PyTorch's table says of it."""
        kwargs = kwargs or {}
        if (count := self.known.get(func.overloadpacket)) is None:
            return func(*args, **kwargs)
        out = func(*(value.to("meta") if isinstance(value, Tensor) else value for value in args), **kwargs)
        self.flops += count(*args, **kwargs, out_val=out)
        self.products += 1
        return tree_map_only(Tensor, partial(torch.zeros_like, device=args[0].device), out)
