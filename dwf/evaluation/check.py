"""What every protocol is made of: a check attacks a batch and returns, per row, which samples are still right.

The caller never trusts an attack: `Victim.verdict` puts every image back into ball and box, and asks the original model, in eval
mode and fp32, in a fresh forward pass.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from dwf.attacks.engine import project
from dwf.core.errors import Refused
from dwf.core.seeds import Noise, derive
from dwf.core.types import Batch, Classifier, Threat
from dwf.models import AttackCopy


@dataclass(frozen=True)
class Row:
    """One line of a protocol's table."""

    name: str
    threat: Threat
    steps: int
    restarts: int
    step_size: float
    iterate: Literal["last", "worst"] = "last"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a check found out about one batch."""

    bits: Mapping[str, Tensor]
    """Per row (B,) bool: still classified correctly."""
    images: Mapping[str, Tensor] = field(default_factory=dict)
    """Adversarial images (B, C, H, W) of general interest, by kind: `fgsm`, `pgd`."""


class Check(Protocol):
    """One or more rows of a protocol from one piece of work."""

    def rows(self) -> Sequence[Row]:
        """What `__call__` returns bits for."""
        ...

    def __call__(self, victim: Victim, batch: Batch) -> Outcome:
        """Attack one batch. A batch of fixed size is the unit of resume and of sharding."""
        ...


class Metered:
    """A classifier that counts the images that pass through it, forwards and backwards."""

    def __init__(self, model: Classifier) -> None:
        self.model, self.forwards, self.backwards = model, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        """The model's logits."""
        self.forwards += len(x)
        self.backwards += len(x) if torch.is_grad_enabled() and x.requires_grad else 0
        return self.model(x)


class Victim:
    """A model under attack: the original that judges, the fast copy that is ascended, and the bill."""

    def __init__(self, model: nn.Module, precision: torch.dtype, seed: int) -> None:
        """The model is put into eval mode; `precision` is that of the copy."""
        self.original = Metered(model.eval())
        self.copy = Metered(AttackCopy(model, precision))
        self.seed = seed
        self.bills: dict[str, tuple[float, int, int]] = {}
        self._last = (time.perf_counter(), 0, 0)

    def noise(self, batch: Batch) -> Noise:
        """The attack noise of these samples, the same in any batch."""
        return Noise(derive(self.seed, "attack"), batch.index)

    @torch.no_grad()
    def verdict(self, adversarial: Tensor, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """(B,) bool: does the original still name class y, after the image was put back into the ball around x and the box?

        Raises `Refused` if an image or a logit is not a number.
        """
        allowed = project(adversarial, x, threat)
        logits = self.original(allowed)
        if not (allowed.isfinite().all() and logits.isfinite().all()):
            raise Refused("the model returned NaN or infinite logits under attack; nothing about its robustness can be said")
        return logits.argmax(1) == y

    def bill(self, row: str) -> None:
        """Book everything since the last call on a row: seconds, forward and backward passes of images."""
        now = (
            time.perf_counter(),
            self.original.forwards + self.copy.forwards,
            self.original.backwards + self.copy.backwards,
        )
        if row:
            old = self.bills.get(row, (0.0, 0, 0))
            self.bills[row] = (
                old[0] + now[0] - self._last[0],
                old[1] + now[1] - self._last[1],
                old[2] + now[2] - self._last[2],
            )
        self._last = now
