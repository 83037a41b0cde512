"""A toy to train: a linear net on eight numbers an image, without any method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dwf.core.journal import Journal, Listener
from dwf.core.types import Images
from dwf.data import Feed
from dwf.training.checkpoint import Store
from dwf.training.loop import Harness, Options, train
from dwf.training.optim import Constant, Sgd
from dwf.training.plan import Batches, Group, Learner, Phase, Update

SGD = Sgd(learning_rate=0.1, momentum=0.9, weight_decay=0.0)


def images(count: int = 20) -> Images:
    """Two classes of 1 x 2 x 4 pixels; `index` counts from 100."""
    random = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 1, 2, 4), generator=random, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 2, ("a", "b"), torch.arange(100, 100 + count), "toy", "0" * 64)


def net(seed: int = 0) -> nn.Module:
    """Eight numbers in, two logits out."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 2))


def plainly(model: nn.Module, batches: Batches) -> Iterator[Update]:
    """Cross-entropy."""
    for batch in batches:
        yield Update(F.cross_entropy(model(batch.x), batch.y))


def phase(
    model: nn.Module,
    round: Callable[[nn.Module, Batches], Iterator[Update]] = plainly,
    *,
    name: str = "toy",
    rounds: int = 3,
    batch: int = 5,
    parts: int = 1,
) -> Phase:
    """One learner for everything."""
    learner = Learner([Group(list(model.parameters()))], SGD, Constant())
    return Phase(name, model, rounds, batch, {"all": learner}, round, parts=parts)


def scripted(*scores: float) -> Callable[[nn.Module], Mapping[str, float]]:
    """A validation that returns these accuracies, one a call."""
    left = iter(scores)
    return lambda model: {"sa": next(left), "fgsm": 0.0, "ra": 0.0, "n": 1}


def always(model: nn.Module) -> Mapping[str, float]:
    """A validation without an opinion."""
    return {"sa": 0.5, "fgsm": 0.5, "ra": 0.5, "n": 1}


def go(
    folder: Path,
    phases: Sequence[Phase],
    *,
    data: Images | None = None,
    validate: Callable[[nn.Module], Mapping[str, float]] = always,
    listeners: Sequence[Listener] = (),
    precision: torch.dtype = torch.float32,
    **options: Any,
) -> None:
    """Train, or go on training, in `folder`."""
    chosen, store = Options(**options), Store(folder)
    source = data or images()
    journal = Journal(folder / "train.jsonl", listeners, keep_bytes=store.journal_bytes([p.name for p in phases]))
    try:
        train(
            phases,
            Harness(
                store,
                lambda p: Feed(source, p.batch, 7, 0, False, parts=chosen.accumulate),
                validate,
                journal,
                chosen,
                precision,
                seed=1,
            ),
        )
    finally:
        journal.close()
