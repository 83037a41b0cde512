"""PGD (Madry et al., ICLR 2018): uniform start, `steps` steps of projected ascent on the cross-entropy, `restarts` times."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from dwf.attacks.engine import ascend, at_image, checked, end, finite, frozen, known, uniform
from dwf.attacks.losses import cross_entropy, margin
from dwf.core.seeds import Noise
from dwf.core.settings import Length, Settings
from dwf.core.types import Classifier, Threat, default_step


class Pgd(Settings):
    """Projected gradient ascent. With several restarts each sample keeps the restart that hurts it most."""

    kind: Literal["pgd"] = "pgd"
    threat: Threat = Threat()
    steps: int = Field(default=10, ge=1)
    step: Length = Field(default_factory=default_step)
    """Step size in the units of the radius; left out, 2/255 at 8/255, and always enough for `steps` to cross the ball."""
    restarts: int = Field(default=1, ge=1)
    start: Literal["uniform", "image"] = "uniform"
    """Where each ascent begins: uniformly in the ball, or at the image."""
    draws: int = Field(default=1, ge=1)
    """Gradients averaged a step; above 1 this is EoT-PGD, for models that are random."""

    @model_validator(mode="after")
    def _restarts_differ(self) -> Self:
        if self.start == "image" and self.restarts > 1 and self.draws == 1:
            raise ValueError(
                f"{self.restarts} restarts from the image are one and the same ascent; use start 'uniform' or one restart"
            )
        return self

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes an image."""
        gradients = self.restarts * self.steps * self.draws
        return gradients + (self.restarts * self.draws if self.restarts > 1 else 0), gradients

    def __call__(
        self,
        model: Classifier,
        x: Tensor,
        y: Tensor,
        noise: Noise,
        target: Tensor | None = None,
        *,
        gradient: Tensor | None = None,
    ) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> adversarial images; `target` (B,) asks for a class instead of an error.

        `gradient`: that of the loss at the image, where the caller has it already and the attack starts there.
        """
        checked(x, y, self.threat, target)
        assert gradient is None or self.start == "image"
        with frozen(model):
            loss = cross_entropy(model, y, target)
            best, worst = x.detach(), torch.full_like(x[:, 0, 0, 0], -torch.inf)
            for restart in range(self.restarts):
                iterates = ascend(
                    loss,
                    x,
                    self.threat,
                    steps=self.steps,
                    step=self.step,
                    noise=noise,
                    start=uniform if self.start == "uniform" else at_image,
                    draws=self.draws,
                    restart=restart,
                    first=gradient,
                )
                last = end(iterates)
                if self.restarts == 1:
                    return last
                with torch.no_grad():
                    seen = [model(finite(last)).float() for _ in range(self.draws)]
                    logits = known(torch.stack(seen).mean(0))  # a NaN damages nothing, by comparison
                    damage = margin(logits, y) if target is None else -margin(logits, target)
                better = damage > worst
                best, worst = torch.where(better.view(-1, 1, 1, 1), last, best), torch.maximum(damage, worst)
        return best
