"""One linear layer on the standardised pixels: the router of RT-ER, and softmax regression by itself."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dwf.core.settings import Settings
from dwf.core.types import Spec
from dwf.models.normalize import Normalize


class Linear(Settings):
    """A single linear layer: its decisions change at distances that are known exactly."""

    kind: Literal["linear"] = "linear"

    def __call__(self, spec: Spec) -> nn.Module:
        """A freshly initialised net for these images and classes."""
        return LinearNet(spec)


class LinearNet(nn.Module):
    """Normalise, flatten, one layer: (B, C, H, W) in [0, 1] -> logits (B, classes)."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.normalize = Normalize(spec)
        self.head = nn.Linear(spec.channels * spec.height * spec.width, len(spec.classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        out: Tensor = self.head(self.normalize(x).flatten(1).to(self.head.weight.dtype))
        return out
