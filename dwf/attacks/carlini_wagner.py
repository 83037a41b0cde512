"""Carlini-Wagner L2 (IEEE S&P 2017): the smallest perturbation that breaks a sample, sought from the outside in.

Minimise |x' - x|^2 + c * max(0, confidence - margin(x')) over w with x' = (tanh(w) + 1) / 2, which the box cannot stop, by Adam,
starting at the image. The margin (f6 of the paper) is the best wrong logit minus the true one, or the target's minus the best
other. A search per sample finds the smallest useful c: ten times as much until one breaks the sample, then bisection.
Defaults are foolbox's but for `steps`: foolbox and the paper allow 10 000, and stop when the loss of the whole batch stalls. Here
each sample stops by itself, so that its path does not depend on its batch, and 1000 steps are as good: on handwritten digits ten
times as many shorten the mean perturbation by 0.1 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dwf.attacks.engine import checked, finite, frozen, project, rows_of
from dwf.attacks.losses import margin
from dwf.core.seeds import Noise
from dwf.core.settings import Length, Settings
from dwf.core.types import Classifier, Threat

INSIDE = 0.999999
"""How close to the walls of the box an image may start: at the wall itself w would be infinite."""
CHECKS = 10
"""How often a descent asks whether a sample still makes progress."""
PROGRESS = 0.9999
"""The share of its loss at the last check that a sample must reach, or it is done."""
FAST, SLOW, TINY = 0.9, 0.999, 1e-8
"""Adam: what the means of the gradient and of its square keep a step, and what bounds the quotient."""


class CarliniWagner(Settings):
    """The minimal L2 attack. A sample keeps its smallest perturbation that succeeded, 0 if the image itself does; one that never
    broke keeps the try that came closest. Then perturbations longer than `threat.eps` are scaled back to the ball.

    The default radius is the 0.5 of the field's L2 tables, so that an accuracy stands beside that of other attacks: it is the
    share of the images whose minimal perturbation is longer. Who wants the perturbations themselves sets a radius that nothing
    reaches, such as 1000.
    """

    kind: Literal["carlini-wagner"] = "carlini-wagner"
    threat: Threat = Threat(norm="l2", eps=0.5)
    confidence: float = Field(default=0.0, ge=0)
    """By how much the margin, in logits, must exceed zero before a try counts as a success."""
    searches: int = Field(default=9, ge=1)
    """Values of c tried for each sample."""
    steps: int = Field(default=1000, ge=1)
    """Of Adam, at most, for each c."""
    step: Length = 0.01
    """Adam's learning rate, in w."""
    initial_c: float = Field(default=1e-3, gt=0)
    """Weight of the margin against the squared length in the first search."""

    @model_validator(mode="after")
    def _euclidean(self) -> Self:
        if self.threat.norm != "l2":
            raise ValueError(
                f"threat.norm is '{self.threat.norm}' and carlini-wagner minimises the L2 length; set it to 'l2' or use pgd"
            )
        return self

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> adversarial images; `target` (B,) asks for a class instead of an error."""
        checked(x, y, self.threat, target)
        x = x.detach()
        if self.threat.eps == 0:
            return x.clone()
        task = _Task(model, y if target is None else target, 1 if target is None else -1, self.confidence)
        with frozen(model):
            with torch.no_grad():
                broken = task.surplus(x, torch.arange(len(x), device=x.device)) > 0
            rows = (~broken).nonzero().squeeze(1)
            if len(rows) == 0:
                return x.clone()
            tries = _Tries(x, broken)
            c = torch.full((len(x),), self.initial_c, device=x.device)
            low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
            for _ in range(self.searches):
                tries.hit = torch.zeros_like(broken)
                self._descend(task, tries, x, c, rows)
                low, high = torch.where(tries.hit, low, c), torch.where(tries.hit, c, high)
                c = torch.where(high.isinf(), c * 10, (low + high) / 2)
        return project(tries.images, x, self.threat)

    def _descend(self, task: _Task, tries: _Tries, x: Tensor, c: Tensor, rows: Tensor) -> None:
        """Adam from the images of `rows`, each with its own weight c; whoever makes no progress any more leaves."""
        x = x[rows]
        w = torch.atanh((2 * x - 1) * INSIDE)
        state = _State(rows, x, c[rows], w, torch.zeros_like(w), torch.zeros_like(w), torch.full_like(c[rows], torch.inf))
        for number in range(self.steps):
            images, surplus, loss, gradient = _look(task, state)
            tries.note(images, state, surplus)
            if number % math.ceil(self.steps / CHECKS) == 0:
                going = loss <= PROGRESS * state.loss
                state, gradient = rows_of(replace(state, loss=loss), going), gradient[going]
                if len(state.row) == 0:
                    return
            state = self._adam(state, gradient, number + 1)

    def _adam(self, state: _State, gradient: Tensor, number: int) -> _State:
        mean = FAST * state.mean + (1 - FAST) * gradient
        square = SLOW * state.square + (1 - SLOW) * gradient.square()
        scale = (square / (1 - SLOW**number)).sqrt() + TINY
        return replace(state, w=state.w - self.step * (mean / (1 - FAST**number)) / scale, mean=mean, square=square)


@dataclass(frozen=True)
class _Task:
    """What is asked of each sample of the batch."""

    model: Classifier
    goal: Tensor
    """(B,) the true class, or the target."""
    sign: int
    """1 leaves the class, -1 reaches it."""
    confidence: float

    def surplus(self, x: Tensor, rows: Tensor) -> Tensor:
        """By how much the margin of the samples `rows` exceeds the confidence (B,); above zero is success."""
        return self.sign * margin(self.model(x).float(), self.goal[rows]) - self.confidence


@dataclass(frozen=True)
class _State:
    """One descent; all (B, ...), so that rows can be taken together."""

    row: Tensor
    """Position in the batch."""
    x: Tensor
    c: Tensor
    w: Tensor
    mean: Tensor
    """Of the gradient."""
    square: Tensor
    """Mean of the squared gradient."""
    loss: Tensor
    """(B,) at the last check."""


class _Tries:
    """The best image of each sample of the batch so far."""

    def __init__(self, x: Tensor, broken: Tensor) -> None:
        self.images = x.clone()
        self.length = torch.where(broken, 0.0, torch.inf).to(x.dtype)
        """(B,) of the smallest perturbation that succeeded."""
        self.surplus = torch.full((len(x),), -torch.inf, device=x.device)
        """(B,) of the try that came closest, before any succeeded."""
        self.hit = torch.zeros_like(broken)
        """(B,) whether this search succeeded."""

    def note(self, images: Tensor, state: _State, surplus: Tensor) -> None:
        """A shorter success replaces any image, a closer miss another miss."""
        row, hit = state.row, surplus > 0
        length, closest = self.length[row], self.surplus[row]
        now = torch.linalg.vector_norm(images - state.x, dim=(1, 2, 3))
        better = torch.where(hit, now < length, length.isinf() & (surplus > closest))
        self.images[row] = torch.where(better.view(-1, 1, 1, 1), images, self.images[row])
        self.length[row] = torch.where(better & hit, now, length)
        self.surplus[row] = torch.where(better, surplus, closest)
        self.hit[row] |= hit


def _look(task: _Task, state: _State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, surplus and loss (B,) at w, and the gradient of the loss."""
    w = state.w.detach().requires_grad_()
    with torch.enable_grad():
        images = (torch.tanh(w) + 1) / 2
        surplus = task.surplus(images, state.row)
        loss = (images - state.x).square().sum((1, 2, 3)) + state.c * (-surplus).relu()
        gradient = finite(torch.autograd.grad(loss.sum(), w)[0])
    return images.detach(), surplus.detach(), loss.detach(), gradient
