"""MIM, MI-FGSM (Dong et al., CVPR 2018): momentum over L1-normalised raw gradients, and only then the steepest move.

g <- decay * g + gradient / mean|gradient|; x <- project(x + step * sign(g)). The mean instead of the sum only scales g, as in
torchattacks; foolbox takes the sign before the momentum, which is another attack.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from dwf.attacks.engine import Direction, ascend, at_image, checked, end, frozen, steepest
from dwf.attacks.losses import cross_entropy
from dwf.core.seeds import Noise
from dwf.core.settings import Length, Settings
from dwf.core.types import Classifier, Threat, default_step


class Mim(Settings):
    """Iterated FGSM with momentum; transfers better than BIM."""

    kind: Literal["mim"] = "mim"
    threat: Threat = Threat()
    steps: int = Field(default=10, ge=1)
    step: Length = Field(default_factory=default_step)
    decay: float = Field(default=1.0, ge=0)
    """How much of the accumulated gradient survives a step."""

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> adversarial images; `target` (B,) asks for a class instead of an error."""
        checked(x, y, self.threat, target)
        with frozen(model):
            iterates = ascend(
                cross_entropy(model, y, target),
                x,
                self.threat,
                steps=self.steps,
                step=self.step,
                noise=noise,
                start=at_image,
                direction=momentum(self.decay, steepest(self.threat)),
            )
            return end(iterates)


def momentum(decay: float, move: Direction) -> Direction:
    """A direction that accumulates normalised raw gradients; it holds the state of one ascent."""
    total: Tensor | None = None

    def direction(gradient: Tensor) -> Tensor:
        nonlocal total
        unit = gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
        total = unit if total is None else decay * total + unit
        return move(total)

    return direction
