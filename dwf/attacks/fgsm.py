"""FGSM (Goodfellow et al., ICLR 2015): one step of the sign of the gradient, x' = clip(x + eps sign(grad)).

`start="uniform"` with `step` 1.25 eps is FGSM-RS (Wong et al., ICLR 2020), which resists catastrophic overfitting in training.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from dwf.attacks.engine import ascend, at_image, checked, frozen, uniform
from dwf.attacks.losses import cross_entropy
from dwf.core.seeds import Noise
from dwf.core.settings import Length, Settings
from dwf.core.types import Classifier, Threat


class Fgsm(Settings):
    """One step to the border of the ball."""

    kind: Literal["fgsm"] = "fgsm"
    threat: Threat = Threat()
    start: Literal["image", "uniform"] = "image"
    step: Length | None = None
    """Step size; None is eps from the image and 1.25 eps from a uniform start."""

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes an image."""
        return 1, 1

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
        random = self.start == "uniform"
        assert gradient is None or not random
        step = self.step if self.step is not None else self.threat.eps * (1.25 if random else 1)
        with frozen(model):
            (adversarial,) = ascend(
                cross_entropy(model, y, target),
                x,
                self.threat,
                steps=1,
                step=step,
                noise=noise,
                start=uniform if random else at_image,
                first=gradient,
            )
        return adversarial
