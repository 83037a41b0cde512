"""GoogLeNet (Szegedy et al., CVPR 2015, table 1) for small images: a backbone of its own, because timm has none.

The stem's three convolutions stay and its strides and poolings go, so 32 pixels are halved twice, before blocks 4a and 5a, and end
in a map of 8 x 8. Batch-norm stands where the paper of 2015 had local response normalisation; there are no auxiliary classifiers.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dwf.core.settings import Settings
from dwf.core.types import Spec
from dwf.models.layers import ConvNorm
from dwf.models.resnet import ConvNet

Channels = tuple[int, int, int, int, int, int]
_BLOCKS: tuple[Channels | None, ...] = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    None,
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    None,
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
"""Blocks 3a to 5b, by the table's columns #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj; None: max-pool of stride 2."""


class GoogLeNet(Settings):
    """GoogLeNet with a small-image stem; width 64 is the paper's."""

    kind: Literal["googlenet"] = "googlenet"
    width: int = Field(default=64, ge=4)
    """Channels of the first convolution; all others are in proportion."""

    def __call__(self, spec: Spec) -> nn.Module:
        """A freshly initialised net for these images and classes."""
        inputs = 3 * self.width
        blocks: list[nn.Module] = [Reader(self.width, self.width, kernel=1), Reader(self.width, inputs, kernel=3)]
        for row in _BLOCKS:
            if row is None:
                blocks.append(nn.MaxPool2d(3, 2, padding=1))
                continue
            block = Inception(inputs, tuple(max(1, channels * self.width // 64) for channels in row))
            blocks.append(block)
            inputs = block.outputs
        return ConvNet(spec, ConvNorm(spec.channels, self.width), blocks, inputs, activate_stem=True)


class Reader(nn.Module):
    """Convolution, batch-norm, ReLU: (B, in, H, W) -> (B, out, H, W)."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int) -> None:
        super().__init__()
        self.pair = ConvNorm(inputs, outputs, kernel=kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, activate."""
        return F.relu_(self.pair(x))


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3; 1x1 and 5x5; 3x3 max-pool and 1x1."""

    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        one, reduce_three, three, reduce_five, five, pool = channels
        self.outputs = one + three + five + pool
        self.one = Reader(inputs, one, kernel=1)
        self.three = nn.Sequential(Reader(inputs, reduce_three, kernel=1), Reader(reduce_three, three, kernel=3))
        self.five = nn.Sequential(Reader(inputs, reduce_five, kernel=1), Reader(reduce_five, five, kernel=5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), Reader(inputs, pool, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)
