"""Square (Andriushchenko et al., ECCV 2020): random search over squares, from scores alone; no gradient is ever asked.

A query changes one square window of a sample's best image so far, and is kept where it does more damage.
Linf (algorithm 2): start at vertical stripes x +- eps; a window becomes x + eps or x - eps, one sign a channel.
L2 (algorithm 3): start at a grid of signed bumps; a window receives a new bump, paid by emptying a second window and by the length
that the walls of the box left unspent, so that the whole perturbation has length eps again.
Unlike the released code and AutoAttack's, every sample draws windows of its own, also at the last row and column, and the L2 budget
of a window is counted channel by channel as the paper writes it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dwf.attacks.engine import checked, frozen, known, project
from dwf.attacks.losses import margin
from dwf.core.seeds import Noise
from dwf.core.settings import Settings
from dwf.core.types import Classifier, Threat

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Queries, of 10 000, after which the changed share of the pixels is halved (section 3.3)."""
KEPT = 0.75
"""A batch is cut to its survivors once they are at most this share of it; cutting at every query would change shapes each time."""

Draw = Callable[[tuple[int, ...]], Tensor]
"""Shape per sample -> numbers (B, *shape) in [0, 1) for this query."""
Score = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images (B, C, H, W), classes (B,) -> damage (B,) and whether the sample is broken (B,)."""


class Square(Settings):
    """Black-box attack by queries. The score is the margin, or the target's cross-entropy. A sample is queried until it breaks; the
    image itself is not queried, so that one which is misclassified already is moved to the start like any other.
    """

    kind: Literal["square"] = "square"
    threat: Threat = Threat()
    queries: int = Field(default=5000, ge=1)
    """Images asked about a sample and restart, the start included."""
    p: float = Field(default=0.8, gt=0, le=1)
    """Share of the pixels that the first windows cover. The paper's schedule of 10 000 queries shrinks it, rescaled to `queries`
    as the released code does: query i stands where i * 10 000 / queries stands in the paper."""
    restarts: int = Field(default=1, ge=1)
    """Each after the first runs on the samples that still stand."""
    draws: int = Field(default=1, ge=1)
    """Passes averaged for each query, for models that are random: one lucky draw would end the search of a sample that stands."""

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> adversarial images; `target` (B,) asks for a class instead of an error."""
        checked(x, y, self.threat, target)
        x = x.detach()
        best, worst = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
        rows = torch.arange(0 if self.threat.eps == 0 else len(x), device=x.device)
        asked = _mean(model, self.draws)
        score, goal = (_error(asked), y) if target is None else (_hit(asked), target)
        with frozen(model), torch.no_grad():
            for restart in range(self.restarts):
                if len(rows) == 0:
                    break
                found, damage, broken = self._search(score, x[rows], goal[rows], noise.take(rows), restart)
                better = broken | (damage > worst[rows])
                best[rows] = torch.where(better.view(-1, 1, 1, 1), found, best[rows])
                worst[rows] = torch.where(better, damage, worst[rows])
                rows = rows[~broken]
        return best

    def _search(self, score: Score, x: Tensor, goal: Tensor, noise: Noise, restart: int) -> tuple[Tensor, Tensor, Tensor]:
        """The most damaging image of each sample or the first that broke it, its damage (B,), and whether it broke (B,)."""
        linf = self.threat.norm == "linf"
        start, move, window = (_stripes, _repaint, _flat) if linf else (_grid, _relocate, bump)
        sides = [self._side(query, *x.shape[2:]) for query in range(1, self.queries)]
        windows = {side: window(side).to(x) for side in set(sides)}
        best = start(x, self.threat, partial(noise.uniform, restart=restart, step=0))
        damage, broken = score(best, goal)
        rows = torch.arange(len(x), device=x.device)
        for query, side in enumerate(sides, start=1):
            standing = rows[~broken[rows]]
            if len(standing) == 0:
                break
            rows = standing if len(standing) <= KEPT * len(rows) else rows
            here, before, done = best[rows], damage[rows], broken[rows]
            draw = partial(noise.take(rows).uniform, restart=restart, step=query)
            moved = move(x[rows], here, windows[side], self.threat, draw)
            after, breaks = score(moved, goal[rows])
            better = ((after > before) | breaks) & ~done  # what is broken and not yet cut stays as it broke
            best[rows] = torch.where(better.view(-1, 1, 1, 1), moved, here)
            damage[rows] = torch.where(better, after, before)
            broken[rows] = done | breaks
        return best, damage, broken

    def _side(self, query: int, height: int, width: int) -> int:
        """Side of the window in pixels. In L2 it is odd and at least 3, so that a bump has a middle."""
        share = self.p / 2 ** bisect_left(HALVINGS, int(query / self.queries * 10_000))
        side = max(round(math.sqrt(share * height * width)), 1)
        if self.threat.norm == "l2":
            side = max(side, 3) // 2 * 2 + 1
        return min(side, height, width)


def _mean(model: Classifier, draws: int) -> Classifier:
    return lambda x: known(torch.stack([model(x).float() for _ in range(draws)]).mean(0))


def _error(model: Classifier) -> Score:
    def score(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        damage = margin(model(x), y)
        return damage, damage > 0

    return score


def _hit(model: Classifier) -> Score:
    def score(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x)
        return -F.cross_entropy(logits, target, reduction="none"), margin(logits, target) < 0

    return score


def _stripes(x: Tensor, threat: Threat, draw: Draw) -> Tensor:
    return _corner(_signs(draw((x.shape[1], 1, x.shape[3])), x), x, threat)


def _repaint(x: Tensor, best: Tensor, window: Tensor, threat: Threat, draw: Draw) -> Tensor:
    """Linf: one window of each sample is set to the top or the bottom of the ball."""
    numbers = draw((2 + x.shape[1],))
    place = _place(numbers[:, :2], x, len(window))
    moved = best.clone()
    moved[place] = _corner(_signs(numbers[:, 2:, None, None], x), x[place], threat)
    return moved


def _corner(signs: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """As far as ball and box allow: infinitely far, and projected."""
    return project(x + torch.inf * signs, x, threat)


def _grid(x: Tensor, threat: Threat, draw: Draw) -> Tensor:
    """Bumps of a fifth of the image, as many as fit, each turned at random and with a random sign a channel."""
    batch, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    numbers = draw((1 + channels, down, across))
    shape = bump(side).to(x)
    turned = torch.where(numbers[:, :1, ..., None, None] < 0.5, shape.T, shape)  # (B, 1, down, across, side, side)
    tiles = turned * _signs(numbers[:, 1:, ..., None, None], x)
    change = torch.zeros_like(x)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    whole = tiles.transpose(3, 4).reshape(batch, channels, down * side, across * side)
    change[:, :, top : top + down * side, left : left + across * side] = whole
    return project(x + change * (threat.eps / change.square().sum((1, 2, 3), keepdim=True).sqrt()), x, threat)


def _relocate(x: Tensor, best: Tensor, window: Tensor, threat: Threat, draw: Draw) -> Tensor:
    """L2: a second window is emptied, and its length and what is unspent go into the first, bent towards a new bump."""
    numbers = draw((5 + x.shape[1],))
    to, source = _place(numbers[:, :2], x, len(window)), _place(numbers[:, 2:4], x, len(window))
    shape = torch.where(numbers[:, 4:5, None, None] < 0.5, window.T, window)
    change = best - x
    bent = shape * _signs(numbers[:, 5:, None, None], x) + _unit(change[to])
    before = change.square().sum((2, 3))
    change[source], change[to] = 0, 0
    freed = before - change.square().sum((2, 3))  # (B, C), of the union of both windows
    unspent = (threat.eps**2 - before.sum(1, keepdim=True)).clamp(min=0)
    change[to] = _unit(bent) * (freed + unspent / x.shape[1]).clamp(min=0).sqrt()[..., None, None]
    return project(x + change, x, threat)


def bump(side: int) -> Tensor:
    """(side, side) of length 1: a positive pyramid above a negative one, of equal lengths (section 3.4)."""
    whole = torch.cat([_pyramid(side // 2, side), -_pyramid(side - side // 2, side)])
    return whole / whole.square().sum().sqrt()


def _pyramid(height: int, width: int) -> Tensor:
    """Sum of 1/j^2 over j from 1 + the distance to the middle, counted in rows or columns, whichever is more."""
    down, across = ((torch.arange(size) - size // 2).abs() for size in (height, width))
    terms = torch.arange(1, max(height, width) // 2 + 2).double() ** -2
    values = terms.flip(0).cumsum(0).flip(0)[torch.maximum(down[:, None], across)]
    return values / values.square().sum().sqrt()


def _flat(side: int) -> Tensor:
    return torch.ones(side, side)


def _place(numbers: Tensor, x: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Index of one window (C, side, side) of each sample, at a corner drawn by `numbers` (B, 2)."""
    batch, channels, height, width = x.shape
    steps = torch.arange(side, device=x.device)
    top = (numbers[:, 0] * (height - side + 1)).long().view(-1, 1, 1, 1) + steps[:, None]
    left = (numbers[:, 1] * (width - side + 1)).long().view(-1, 1, 1, 1) + steps
    return torch.arange(batch, device=x.device).view(-1, 1, 1, 1), torch.arange(channels, device=x.device)[:, None, None], top, left


def _signs(numbers: Tensor, x: Tensor) -> Tensor:
    """-1 or 1 with equal chances, in the precision of x."""
    return (numbers < 0.5).to(x.dtype) * 2 - 1


def _unit(window: Tensor) -> Tensor:
    """Each channel scaled to length 1; nothing stays nothing."""
    return window / window.square().sum((2, 3), keepdim=True).sqrt().clamp(min=1e-12)
