"""TRADES (Zhang et al., ICML 2019): stay accurate on clean images and say nearly the same on attacked ones.

L = CE(f(x), y) + beta max_{|x' - x| <= eps} KL(softmax f(x) || softmax f(x'))   (beta = 1 / lambda)
Inside the maximum f(x) is a constant; in the loss both branches learn. Fidelity: docs/methods/trades.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dwf.attacks.engine import ascend, end, project
from dwf.attacks.losses import divergence
from dwf.core.seeds import Noise
from dwf.core.settings import Length, Settings
from dwf.core.types import Classifier, Spec, Threat, usual_step
from dwf.methods.plain import single_phase
from dwf.models import AttackCopy, Backbone, ResNet
from dwf.training.optim import Recipe
from dwf.training.plan import Batches, Passes, Phase, Update

SPREAD = 0.001
"""Standard deviation of the start around the image, as published."""


class Trades(Settings):
    """Cross-entropy on clean images plus beta times the divergence to what the worst neighbour is told."""

    kind: Literal["trades"] = "trades"
    backbone: Backbone = ResNet()
    beta: float = Field(default=6.0, ge=0)
    """Weight of the divergence, the paper's 1 / lambda: larger is more robust and less accurate."""
    threat: Threat = Threat()
    steps: int = Field(default=10, ge=1)
    """Of the inner maximisation."""
    step: Length = Field(default_factory=lambda given: usual_step(given["threat"]))
    """Step size in the units of the radius."""
    recipe: Recipe = Recipe()

    def model(self, spec: Spec) -> nn.Module:
        """One backbone."""
        return self.backbone(spec)

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """One phase."""
        return [single_phase("train", model, self.recipe, self._round)]

    def cost(self) -> Mapping[str, Passes]:
        """The clean answer and K steps inside, both branches outside."""
        return {"train": Passes(self.steps + 3, self.steps + 2)}

    def _round(self, model: nn.Module, batches: Batches) -> Iterator[Update]:
        victim = AttackCopy(model, batches.precision)
        for batch in batches:
            worst = worst_neighbours(victim.refresh(), batch.x, batch.noise, threat=self.threat, steps=self.steps, step=self.step)
            yield surrogate(model, batch.x, worst, batch.y, self.beta)


def worst_neighbours(victim: Classifier, x: Tensor, noise: Noise, *, threat: Threat, steps: int, step: float) -> Tensor:
    """The neighbours (B, C, H, W) of x about which the victim thinks most differently, after `steps` steps."""
    with torch.no_grad():
        clean = victim(x)
    return end(ascend(lambda moved: divergence(clean, victim(moved)), x, threat, steps=steps, step=step, noise=noise, start=beside))


def surrogate(model: nn.Module, x: Tensor, worst: Tensor, y: Tensor, beta: float) -> Update:
    """The loss of images (B, C, H, W), their worst neighbours and labels (B,)."""
    # One pass over both halves: batch-norm normalises them together and counts once.
    clean, moved = model(torch.cat([x, worst])).float().chunk(2)
    natural, boundary = F.cross_entropy(clean, y), divergence(clean, moved).mean()
    return Update(natural + beta * boundary, log={"loss_clean": natural.detach(), "loss_kl": boundary.detach()})


def beside(x: Tensor, threat: Threat, noise: Noise, restart: int) -> Tensor:
    """Start a little beside the image, at x + 0.001 N(0, 1): on it the divergence is least and its gradient zero."""
    return project(x + SPREAD * noise.normal(x.shape[1:], restart=restart), x, threat)
