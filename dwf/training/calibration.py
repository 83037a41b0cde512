"""What a phase costs an image, before it is trained: operations and memory counted on a few images, time on a few batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import floor
from random import Random
from statistics import fmean
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dwf.core.seeds import Noise
from dwf.core.types import Batch
from dwf.training.loop import advance, holding
from dwf.training.mover import Mover
from dwf.training.plan import Draw, Phase

FEW = 8
"""Images of a first timing, from which the size of the next one follows."""
MOMENTS = 8
"""Of a phase whose steps grow, at which they are counted."""


@dataclass(frozen=True)
class Load:
    """Of one phase, on the device of its subject."""

    flops: float
    """Floating-point operations for each clean image: products and sums of convolutions and matrices, attacks included."""
    memory: float
    """Bytes that each clean image of a batch keeps alive at the worst moment of a step."""
    fixed: float
    """Bytes besides: weights, gradients, the optimizer's memory, the attack copy and casts."""
    seconds: float
    """For each clean image."""


def calibrate(phase: Phase, batch: Batch, precision: torch.dtype, budget: float) -> Load:
    """Run `phase` on parts of `batch` for about `budget` seconds. Its subject learns from them: hand over one that nobody needs."""
    rows = min(len(batch.y), 2)
    with holding(phase):
        with torch.compiler.set_stance("force_eager"):  # generated code cannot be looked into
            flops, small, typical = counted(phase, _first(batch, rows), precision)
            _, large = _step(phase, _One(_first(batch, 2 * rows), precision))

        def work(images: int) -> None:
            for _ in _updates(phase, _One(_first(batch, images), precision)):
                pass
            if batch.x.is_cuda:
                torch.cuda.synchronize()

        seconds = paced(work, len(batch.y), budget) * flops / max(typical, 1)
    growth = (large - small) / rows if len(batch.y) >= 2 * rows else small / rows
    subject = sum(p.numel() for p in phase.subject.parameters())
    learning = sum(p.numel() for p in phase.subject.parameters() if p.requires_grad)
    moments = sum(len(_moments(mover)) for mover in _movers(phase).values()) / max(len(phase.learners), 1)
    copy = subject * torch.empty((), dtype=precision).element_size()
    return Load(flops / rows, growth, max(small - rows * growth, 0) + copy + 4 * (subject + (1 + moments) * learning), seconds)


def paced(work: Callable[[int], None], whole: int, budget: float) -> float:
    """Seconds an image of `work(images)`: the quickest of up to four calls on `whole` images, or on as many as `budget` allows.

    What nets are compiled for by a first call is not counted.
    """
    few = min(FEW, whole)
    with torch.compiler.set_stance("force_eager"):
        work(few)
        seconds = _timed(work, few) / few
    images = max(few, min(whole, int(budget / max(seconds, 1e-9))))
    work(images)
    took = _timed(work, images)
    return min([took, *(_timed(work, images) for _ in range(min(3, int(budget / max(took, 1e-9)))))]) / images


def _timed(work: Callable[[int], None], images: int) -> float:
    began = time.perf_counter()
    work(images)
    return time.perf_counter() - began


def _first(batch: Batch, rows: int) -> Batch:
    return Batch(batch.x[:rows], batch.y[:rows], batch.index[:rows])


class _Middling(Random):
    """A step of middling length. Of whole numbers (of an attack's steps) it takes the one below their mean, or the one above."""

    def __init__(self, *, above: bool = False) -> None:
        super().__init__(0)
        self.above, self.rest = above, 0.0

    def choice(self, seq: Any) -> Any:
        """What is next to the mean of `seq`, which need not be in it; `rest` remembers how far above the number below that lies."""
        mean = fmean(seq)
        if not all(isinstance(number, int) for number in seq):
            return min(seq, key=lambda number: abs(number - mean))
        self.rest = max(self.rest, mean - floor(mean))
        return floor(mean) + (self.above and mean > floor(mean))


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


def _moments(mover: Mover) -> set[str]:
    """Which numbers the optimizer keeps for each parameter: momentum, or Adam's two."""
    optimizer = mover.optimizer
    if isinstance(optimizer, torch.optim.SGD):
        return {"momentum"} if optimizer.defaults["momentum"] else set()
    return {"first", "second"}


def _updates(phase: Phase, one: _One) -> Iterator[None]:
    """The steps of the loop, without its journal and checkpoints."""
    movers = _movers(phase)
    phase.subject.train()
    for module in phase.frozen:
        module.eval()
    updates = phase.round(phase.subject, one)
    while (update := advance(updates, one.precision, one.batch.x.device)) is not None:
        movers[update.learner].take(update, 0.0)
        yield


class Counted(NamedTuple):
    """Of steps on one batch."""

    flops: float
    """Operations of a step in the mean: they grow in proportion to a drawn number of steps."""
    most: float
    """Bytes that backward passes kept at one time."""
    typical: float
    """Operations of the one step that is timed."""


def counted(phase: Phase, batch: Batch, precision: torch.dtype) -> Counted:
    """Count the steps of `phase` on `batch`, which its subject takes."""
    below, above = _Middling(), _Middling(above=True)
    flops, most = _step(phase, _One(batch, precision, below))
    means = []
    for moment in [(number + 0.5) / MOMENTS for number in range(MOMENTS)] if phase.grows else [0.5]:
        fewer = _step(phase, _One(batch, precision, below, moment))[0] if phase.grows else flops
        more = _step(phase, _One(batch, precision, above, moment))[0] if below.rest else fewer
        means.append(fewer + below.rest * (more - fewer))
    return Counted(fmean(means), most, flops)


def _step(phase: Phase, one: _One) -> tuple[float, float]:
    """Operations of a step, and the most bytes that its backward passes kept."""
    ledger = _Ledger({p.untyped_storage().data_ptr() for p in phase.subject.parameters()})
    with _Operations() as operations, torch.autograd.graph.saved_tensors_hooks(ledger.pack, _Kept.unpack):
        for _ in _updates(phase, one):
            pass
    return operations.flops, float(ledger.most)


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


class _Ledger:
    """Which storages wait for a backward pass, and the most bytes that ever did; parameters are not counted."""

    def __init__(self, parameters: set[int]) -> None:
        self.users: dict[int, int] = dict.fromkeys(parameters, 1)
        self.alive = self.most = 0

    def pack(self, tensor: Tensor) -> _Kept:
        """Enter a tensor that a backward pass will ask for."""
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if self.users.setdefault(address, 0) == 0:
            self.alive += size
            self.most = max(self.most, self.alive)
        self.users[address] += 1
        return _Kept(self, tensor, address, size)


class _Kept:
    """One saved tensor; leaves the ledger with the graph that holds it."""

    def __init__(self, ledger: _Ledger, tensor: Tensor, address: int, size: int) -> None:
        self.ledger, self.tensor, self.address, self.size = ledger, tensor, address, size

    def unpack(self: Self) -> Tensor:
        """The tensor."""
        return self.tensor

    def __del__(self) -> None:
        users = self.ledger.users
        users[self.address] -= 1
        if users[self.address] == 0:
            self.ledger.alive -= self.size
