"""How a phase learns: optimizers and learning-rate schedules as settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from dwf.core.settings import Settings


class Sgd(Settings):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    nesterov: bool = False

    def __call__(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of these parameter groups."""
        return torch.optim.SGD(
            groups,
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


class Adam(Settings):
    """Adam (Kingma, Ba, ICLR 2015), with decoupled weight decay where that is not zero."""

    kind: Literal["adam"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)

    def __call__(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of these parameter groups."""
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay)


Optimizer = Annotated[Sgd | Adam, Field(discriminator="kind")]


class Cosine(Settings):
    """Cosine annealing over all iterations of the phase, down to zero, after an optional linear warm-up."""

    kind: Literal["cosine"] = "cosine"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the iterations in which the rate rises linearly. DWF states cosine annealing and no warm-up."""

    def __call__(self, progress: float) -> float:
        """Factor on the learning rate at `progress` in [0, 1)."""
        if progress < self.warmup:
            return progress / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


class Constant(Settings):
    """The same rate throughout."""

    kind: Literal["constant"] = "constant"

    def __call__(self, progress: float) -> float:
        """Always 1."""
        return 1.0


class Triangular(Settings):
    """Cyclic rates (Smith, WACV 2017): linearly up from a share of the rate to the rate and down again, several times."""

    kind: Literal["triangular"] = "triangular"
    cycles: int = Field(default=1, ge=1)
    """Triangles in the phase."""
    low: float = Field(default=0.5, ge=0, le=1)
    """The lowest rate, as a share of the optimizer's."""

    def __call__(self, progress: float) -> float:
        """Factor on the learning rate at `progress` in [0, 1)."""
        return self.low + (1 - self.low) * (1 - abs(2 * (progress * self.cycles % 1) - 1))


Schedule = Annotated[Cosine | Constant | Triangular, Field(discriminator="kind")]


class Recipe(Settings):
    """How long, in what batches and how fast one phase learns."""

    epochs: int = Field(default=200, ge=1)
    batch: int = Field(default=128, ge=1)
    """Clean images a step, over all ranks."""
    parts: int = Field(default=1, ge=1)
    """Rounds that each epoch is cut into, so that long epochs are validated and checkpointed on the way."""
    optimizer: Optimizer = Sgd()
    schedule: Schedule = Cosine()
