"""EoT-PGD (Athalye et al., ICML 2018): PGD on the expected loss of a model that is random by itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from dwf.attacks.pgd import Pgd
from dwf.core.seeds import Noise
from dwf.core.settings import Length, Settings
from dwf.core.types import Classifier, Threat, default_step


class EotPgd(Settings):
    """PGD whose every step averages `draws` gradients. On a deterministic model it is PGD at `draws` times the price."""

    kind: Literal["eot-pgd"] = "eot-pgd"
    threat: Threat = Threat()
    steps: int = Field(default=10, ge=1)
    step: Length = Field(default_factory=default_step)
    restarts: int = Field(default=1, ge=1)
    draws: int = Field(default=20, ge=1)

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> adversarial images; `target` (B,) asks for a class instead of an error."""
        attack = Pgd(threat=self.threat, steps=self.steps, step=self.step, restarts=self.restarts, draws=self.draws)
        return attack(model, x, y, noise, target)
