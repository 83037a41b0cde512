"""Auto-PGD (Croce and Hein, ICML 2020): momentum, and a step that halves where progress stalls, so that no step size is tuned.

The schedule is the paper's (algorithm 1 and section 3.2): checkpoints after 22 % of the steps and then in intervals that shrink
by 3 % down to 6 %; at a checkpoint a sample's step is halved, and it returns to its best point, where its loss rose in at most
75 % of the steps since the last one, or where neither its step nor its best loss changed. A sample is done when it is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dwf.attacks.engine import checked, finite, frozen, input_gradient, project, rows_of, steepest, uniform
from dwf.attacks.losses import difference_of_logits_ratio, margin
from dwf.core.seeds import Noise
from dwf.core.settings import Settings
from dwf.core.types import Classifier, Threat

MOMENTUM = 0.75
ROSE_TOO_RARELY = 0.75


@dataclass(frozen=True)
class _Goal:
    """What is asked of each sample."""

    y: Tensor
    """(B,) true classes."""
    aim: Tensor | None = None
    """(B,) the class that the objective pulls to, if any."""
    reach: bool = False
    """Only `aim` counts as success, not any wrong class."""

    def take(self, rows: Tensor) -> _Goal:
        return replace(self, y=self.y[rows], aim=None if self.aim is None else self.aim[rows])

    def damage(self, logits: Tensor) -> Tensor:
        """(B,) above zero: the sample is broken."""
        return margin(logits, self.y) if self.aim is None or not self.reach else -margin(logits, self.aim)


Objective = Callable[[Tensor, _Goal], Tensor]
"""Logits (B, classes) and goals -> what to ascend (B,)."""


class _Apgd(Settings):
    """What the three have in common."""

    threat: Threat = Threat()
    steps: int = Field(default=100, ge=1)
    restarts: int = Field(default=1, ge=1)
    draws: int = Field(default=1, ge=1)
    """Gradients averaged a step, for models that are random."""

    def _run(self, objective: Objective, model: Classifier, x: Tensor, noise: Noise, goals: Iterable[_Goal]) -> Tensor:
        """One ascent for each goal, on the samples that still stand; the most damaging image of each sample (B, C, H, W)."""
        best, worst = x.detach().clone(), torch.full((len(x),), -torch.inf, device=x.device)
        if self.threat.eps == 0:
            return best
        for restart, goal in enumerate(goals):
            rows = (worst <= 0).nonzero().squeeze(1)
            if len(rows) == 0:
                break
            ascent = _Ascent(
                self, objective, model, x.detach()[rows], goal=goal.take(rows), noise=noise.take(rows), restart=restart
            )
            found, damage = ascent.run()
            better = damage > worst[rows]
            best = best.index_put((rows[better],), found[better])
            worst = worst.index_put((rows,), torch.maximum(damage, worst[rows]))
        return best


class ApgdCe(_Apgd):
    """Auto-PGD on the cross-entropy."""

    kind: Literal["apgd-ce"] = "apgd-ce"

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> adversarial images; `target` (B,) asks for a class instead of an error."""
        checked(x, y, self.threat, target)
        with frozen(model):
            return self._run(_cross_entropy, model, x, noise, [_Goal(y, target, reach=True)] * self.restarts)


class ApgdDlr(_Apgd):
    """Auto-PGD on the difference-of-logits ratio, which no scaling of the logits can saturate. At least 3 classes."""

    kind: Literal["apgd-dlr"] = "apgd-dlr"

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> adversarial images; `target` (B,) asks for a class instead of an error."""
        checked(x, y, self.threat, target)
        with frozen(model):
            return self._run(_dlr, model, x, noise, [_Goal(y, target, reach=True)] * self.restarts)


class ApgdT(_Apgd):
    """Auto-PGD towards each of the likeliest wrong classes in turn, on the targeted ratio. At least 4 classes."""

    kind: Literal["apgd-t"] = "apgd-t"
    targets: int = Field(default=9, ge=1)
    """Wrong classes that are tried, likeliest first; all of them if there are fewer."""

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> adversarial images; with `target` (B,) that class alone is tried, and must come."""
        checked(x, y, self.threat, target)
        with frozen(model):
            if target is not None:
                goals = [_Goal(y, target, reach=True)]
            else:
                with torch.no_grad():
                    wrong = model(x).float().scatter(1, y[:, None], -torch.inf)
                ranked = wrong.argsort(dim=1, descending=True)[:, : min(self.targets, wrong.shape[1] - 1)]
                goals = [_Goal(y, aim) for aim in ranked.unbind(1)]
            return self._run(_dlr, model, x, noise, goals * self.restarts)


def _cross_entropy(logits: Tensor, goal: _Goal) -> Tensor:
    if goal.aim is None:
        return F.cross_entropy(logits, goal.y, reduction="none")
    return -F.cross_entropy(logits, goal.aim, reduction="none")


def _dlr(logits: Tensor, goal: _Goal) -> Tensor:
    return difference_of_logits_ratio(logits, goal.y, goal.aim)


@dataclass
class _State:
    """Everything that belongs to a sample; all (B, ...), so that rows can be taken together."""

    row: Tensor
    """Its position in the batch."""
    x: Tensor
    here: Tensor
    before: Tensor
    gradient: Tensor
    loss: Tensor
    best: Tensor
    best_gradient: Tensor
    best_loss: Tensor
    step: Tensor
    rises: Tensor
    """Steps since the last checkpoint that raised the loss."""
    halved: Tensor
    """Whether the last checkpoint halved the step."""
    best_then: Tensor
    """Best loss at the last checkpoint."""


class _Ascent:
    """One ascent of a batch. What is broken leaves it, once that makes the batch a quarter smaller."""

    def __init__(
        self, settings: _Apgd, objective: Objective, model: Classifier, x: Tensor, *, goal: _Goal, noise: Noise, restart: int
    ) -> None:
        self._settings, self._objective, self._model = settings, objective, model
        self._all, self._goal = goal, goal
        self._found, self._damage = x, torch.full((len(x),), -torch.inf, device=x.device)
        start = uniform(x, settings.threat, noise, restart)
        gradient, loss = self._look(start, torch.arange(len(x), device=x.device))
        no = torch.zeros_like(loss, dtype=torch.bool)
        self._state = _State(
            row=torch.arange(len(x), device=x.device),
            x=x,
            here=start,
            before=start,
            gradient=gradient,
            loss=loss,
            best=start,
            best_gradient=gradient,
            best_loss=loss,
            step=torch.full_like(loss, 2 * settings.threat.eps).view(-1, 1, 1, 1),
            rises=torch.zeros_like(loss),
            halved=~no,
            best_then=loss,
        )

    def run(self) -> tuple[Tensor, Tensor]:
        """(the most damaging image of each sample or the first that broke it, its damage)."""
        steps = self._settings.steps
        interval, since = max(int(0.22 * steps), 1), 0
        for number in range(steps):
            self._drop_broken()
            if len(self._state.row) == 0:
                break
            self._advance(1.0 if number == 0 else MOMENTUM)
            since += 1
            if since == interval:
                self._checkpoint(interval)
                interval, since = max(interval - max(int(0.03 * steps), 1), int(0.06 * steps), 1), 0
        return self._found, self._damage

    def _look(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and loss at x, the samples `rows`; remembers the image that damages each most, until it is broken."""
        seen: list[Tensor] = []

        def loss(images: Tensor) -> Tensor:
            seen.append(self._model(images).float())
            return self._objective(seen[-1], self._goal)

        gradient = finite(input_gradient(loss, x, self._settings.draws))
        with torch.no_grad():
            logits = torch.stack(seen).mean(0)
            damage, old = self._goal.damage(logits), self._damage[rows]
            better = (damage > old) & (old <= 0)  # the first image that breaks a sample stays: later ones depend on who drops when
            self._found = self._found.index_put((rows[better],), x[better])
            self._damage = self._damage.index_put((rows[better],), damage[better])
            return gradient, self._objective(logits, self._goal)

    def _advance(self, weight: float) -> None:
        """One step with momentum: the projected step, then a mean of it and of the last change."""
        state, threat = self._state, self._settings.threat
        moved = project(state.here + state.step * steepest(threat)(state.gradient), state.x, threat)
        there = project(state.here + (moved - state.here) * weight + (state.here - state.before) * (1 - weight), state.x, threat)
        gradient, loss = self._look(there, state.row)
        better = loss > state.best_loss
        wide = better.view(-1, 1, 1, 1)
        self._state = replace(
            state,
            before=state.here,
            here=there,
            gradient=gradient,
            loss=loss,
            rises=state.rises + (loss > state.loss),
            best=torch.where(wide, there, state.best),
            best_gradient=torch.where(wide, gradient, state.best_gradient),
            best_loss=torch.where(better, loss, state.best_loss),
        )

    def _checkpoint(self, interval: int) -> None:
        """Halve the step of those that stall, and put them back to their best point."""
        state = self._state
        halve = (state.rises <= interval * ROSE_TOO_RARELY) | (~state.halved & (state.best_then >= state.best_loss))
        wide = halve.view(-1, 1, 1, 1)
        self._state = replace(
            state,
            here=torch.where(wide, state.best, state.here),
            gradient=torch.where(wide, state.best_gradient, state.gradient),
            step=torch.where(wide, state.step / 2, state.step),
            rises=torch.zeros_like(state.rises),
            halved=halve,
            best_then=state.best_loss,
        )

    def _drop_broken(self) -> None:
        rows = (self._damage[self._state.row] <= 0).nonzero().squeeze(1)
        if len(rows) <= 0.75 * len(self._state.row):
            self._state = rows_of(self._state, rows)
            self._goal = self._all.take(self._state.row)
