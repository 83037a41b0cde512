"""BIM (Kurakin et al., ICLR workshop 2017): FGSM in small steps, starting at the image, projected after each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from dwf.attacks.engine import ascend, at_image, checked, end, frozen
from dwf.attacks.losses import cross_entropy
from dwf.core.seeds import Noise
from dwf.core.settings import Length, Settings
from dwf.core.types import Classifier, Threat, default_step


class Bim(Settings):
    """Iterated FGSM; PGD without the random start."""

    kind: Literal["bim"] = "bim"
    threat: Threat = Threat()
    steps: int = Field(default=10, ge=1)
    step: Length = Field(default_factory=default_step)

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in [0, 1], y (B,) -> adversarial images; `target` (B,) asks for a class instead of an error."""
        checked(x, y, self.threat, target)
        with frozen(model):
            loss = cross_entropy(model, y, target)
            return end(ascend(loss, x, self.threat, steps=self.steps, step=self.step, noise=noise, start=at_image))
