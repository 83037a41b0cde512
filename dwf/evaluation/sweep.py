"""The cheap way to the same numbers: one gradient for all FGSM radii, one trajectory for all PGD step counts.

The paper's Table 3 costs 559 forward and backward pairs a sample row by row, 301 shared, and less with restarts on survivors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dwf.attacks.engine import ascend, checked, input_gradient, project, steepest
from dwf.attacks.losses import cross_entropy, margin
from dwf.core.seeds import Noise
from dwf.core.types import Batch, Threat
from dwf.evaluation.check import Outcome, Row, Standing
from dwf.evaluation.victim import Victim

_ITERATES: tuple[tuple[str, Literal["last", "worst"]], ...] = (("", "last"), ("-worst", "worst"))
"""Suffix of a row's name, and which of its iterates counts."""


@dataclass(frozen=True)
class Clean:
    """SA."""

    def rows(self) -> Sequence[Row]:
        """One row, with an empty ball."""
        return [Row("clean", Threat(eps=0), 0, 0, 0.0)]

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """The original's verdict on the images themselves."""
        checked(batch.x, batch.y, Threat())
        bits = victim.verdict(batch.x, batch.x, batch.y, Threat(eps=0))
        victim.bill("clean")
        return Outcome({"clean": bits})


@dataclass(frozen=True)
class FgsmSweep:
    """FGSM at every radius from the one gradient at the image."""

    radii: tuple[tuple[str, Threat], ...]
    """(row name, Linf threat) pairs; the last one's images are the examples."""

    def rows(self) -> Sequence[Row]:
        """One row a radius."""
        return [Row(name, threat, 1, 1, threat.eps, settings={"start": "image"}) for name, threat in self.radii]

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """x + eps sign(gradient), for every eps."""
        gradient = input_gradient(cross_entropy(victim.copy, batch.y), batch.x)
        bits, moved = {}, batch.x
        for row in self.rows():
            moved = project(batch.x + row.threat.eps * steepest(row.threat)(gradient), batch.x, row.threat)
            bits[row.name] = victim.verdict(moved, batch.x, batch.y, row.threat)
            victim.bill(row.name)
        return Outcome(bits, {"fgsm": moved})


@dataclass(frozen=True)
class PgdSweep:
    """PGD at several step counts as snapshots of one trajectory; the longest goes on with restarts on its survivors.

    Every row stands twice: as the paper reports it (last iterate), and as `-worst`, where an earlier iterate may break the sample
    too. The copy's margin picks that iterate, anew at each snapshot; the original judges it.
    """

    threat: Threat
    step: float
    snapshots: tuple[int, ...]
    """Step counts, ascending."""
    final: int
    """Steps of the row with restarts, at least the last snapshot."""
    restarts: int
    draws: int
    """Gradients averaged a step in the EoT row; 1 makes it the first restart of the final row."""

    def rows(self) -> Sequence[Row]:
        """Snapshots, the restarted row and the EoT row, each by its last and by its worst iterate."""
        plain = [(f"pgd-{steps}", steps, 1, 1) for steps in self.snapshots]
        once = [(self._once, self.final, 1, 1)] if self.draws > 1 else []
        all_rows = [*plain, *once, (self._restarted, self.final, self.restarts, 1), (self._adaptive, self.final, 1, self.draws)]
        return [
            Row(name + suffix, self.threat, steps, restarts, self.step, iterate, {"start": "uniform", "eot": draws})
            for name, steps, restarts, draws in all_rows
            for suffix, iterate in _ITERATES
        ]

    @property
    def _restarted(self) -> str:
        return f"pgd-{self.final}x{self.restarts}"

    @property
    def _once(self) -> str:
        """The first start alone; with one draw it is the EoT row."""
        return self._adaptive if self.draws == 1 else f"pgd-{self.final}"

    @property
    def _adaptive(self) -> str:
        return f"pgd-{self.final}-eot{self.draws}"

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """One long ascent, read at the snapshots; then restarts on whom the last iterate left standing."""
        noise = victim.noise(batch)
        path = _Path(self, victim, batch, noise=noise)
        bits: dict[str, Tensor] = {}
        for steps in self.snapshots:
            bits |= path.read(f"pgd-{steps}", steps)
        example = path.adversarial
        first = path.read(self._restarted, self.final)
        last, worst = first.values()
        for restart in range(1, self.restarts):
            alive = last.nonzero().squeeze(1)
            if len(alive) == 0:
                break
            rest = Batch(batch.x[alive], batch.y[alive], batch.index[alive])
            again = _Path(self, victim, rest, noise=noise.take(alive), restart=restart).read(self._restarted, self.final)
            still_last, still_worst = again.values()
            last = last.index_put((alive,), still_last)
            worst = worst.index_put((alive,), worst[alive] & still_worst)
        bits |= _both(self._restarted, last, worst) | _both(self._once, *first.values())
        if self.draws > 1:
            bits |= _Path(self, victim, batch, noise=noise, draws=self.draws).read(self._adaptive, self.final)
        return Outcome(bits, {"pgd": example})


class _Path:
    """One ascent in progress, remembering for each sample the iterate that the copy found most wrong."""

    def __init__(self, sweep: PgdSweep, victim: Victim, batch: Batch, *, noise: Noise, restart: int = 0, draws: int = 1) -> None:
        self._victim, self._batch, self._threat = victim, batch, sweep.threat
        self._margin = self._worst_margin = torch.full(batch.y.shape, -torch.inf, device=batch.y.device)
        self.adversarial = self._worst = batch.x
        self._steps = 0
        self._standing = torch.ones_like(batch.y, dtype=torch.bool)
        self._iterates = ascend(
            self._loss,
            batch.x,
            sweep.threat,
            steps=sweep.final,
            step=sweep.step,
            noise=noise,
            draws=draws,
            restart=restart,
        )

    def read(self, row: str, steps: int) -> dict[str, Tensor]:
        """Walk on to `steps` and judge the last iterate and the worst one so far."""
        batch = self._batch
        while self._steps < steps:
            before, self.adversarial = self.adversarial, next(self._iterates)
            self._steps += 1
            if self._steps > 1:  # the margin that was seen on the way belongs to the iterate before
                better = self._margin > self._worst_margin
                self._worst = torch.where(better.view(-1, 1, 1, 1), before, self._worst)
                self._worst_margin = torch.where(better, self._margin, self._worst_margin)
        last = self._victim.verdict(self.adversarial, batch.x, batch.y, self._threat)
        self._standing = self._standing & last
        if self._steps > 1:  # after a single step there is no other iterate than the last
            self._standing = self._standing & self._victim.verdict(self._worst, batch.x, batch.y, self._threat)
        self._victim.bill(row)
        return _both(row, last, self._standing)

    def _loss(self, x: Tensor) -> Tensor:
        logits = self._victim.copy(x)
        self._margin = margin(logits.detach(), self._batch.y)
        return F.cross_entropy(logits, self._batch.y, reduction="none")


def _both(row: str, last: Tensor, worst: Tensor) -> dict[str, Tensor]:
    """The bits of a row by its last and by its worst iterate, in the order of _ITERATES."""
    return {row + suffix: bits for (suffix, _), bits in zip(_ITERATES, (last, worst), strict=True)}


def ascending(steps: Sequence[int]) -> bool:
    """Are the step counts positive and strictly ascending?"""
    return all(a < b for a, b in pairwise((0, *steps)))
