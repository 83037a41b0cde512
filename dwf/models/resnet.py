"""CIFAR ResNets (He et al., CVPR 2016: 3x3 stem, no max-pool) of any width, and WideResNets (Zagoruyko, Komodakis, BMVC 2016)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dwf.core.settings import Settings
from dwf.core.types import Spec
from dwf.models.layers import ConvNorm, Pointwise
from dwf.models.normalize import Normalize

_BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 20: (3, 3, 3), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
"""Blocks a stage. Each stage after the first doubles the channels and halves the image."""


class ResNet(Settings):
    """A CIFAR ResNet. ResNet-18 of width 64 has 11.17 M parameters; ResNet-20 is He et al.'s three-stage net, width 16 there."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[10, 18, 20, 34, 50] = 18
    """10, 18, 20, 34: basic blocks of two 3x3 convolutions; 50: bottlenecks with four times the channels at their end."""
    width: int = Field(default=64, ge=1)
    """Channels of the stem and of the first stage."""

    def __call__(self, spec: Spec) -> nn.Module:
        """A freshly initialised net for these images and classes."""
        block = Bottleneck if self.depth == 50 else BasicBlock
        stages: list[nn.Module] = []
        inputs = self.width
        for stage, blocks in enumerate(_BLOCKS[self.depth]):
            for number in range(blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                stages.append(block(inputs, self.width << stage, stride))
                inputs = (self.width << stage) * block.expansion
        return ConvNet(spec, ConvNorm(spec.channels, self.width), stages, inputs, activate_stem=True)


class WideResNet(Settings):
    """WideResNet-depth-widen, e.g. 28-10 and 34-10: pre-activation blocks in three stages of 16, 32, 64 times `widen` channels."""

    kind: Literal["wide-resnet"] = "wide-resnet"
    depth: Literal[10, 16, 22, 28, 34, 40] = 28
    """6 n + 4 layers, n blocks a stage."""
    widen: int = Field(default=10, ge=1)

    def __call__(self, spec: Spec) -> nn.Module:
        """A freshly initialised net for these images and classes."""
        stem = nn.Conv2d(spec.channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        inputs = 16
        for stage in range(3):
            for number in range((self.depth - 4) // 6):
                blocks.append(PreActivationBlock(inputs, (16 << stage) * self.widen, 2 if stage > 0 and number == 0 else 1))
                inputs = (16 << stage) * self.widen
        return ConvNet(spec, stem, [*blocks, nn.BatchNorm2d(inputs), nn.ReLU()], inputs, activate_stem=False)


class ConvNet(nn.Module):
    """Normalise, stem, blocks, global average, linear head: (B, C, H, W) in [0, 1] -> logits (B, classes)."""

    def __init__(self, spec: Spec, stem: nn.Module, blocks: list[nn.Module], features: int, *, activate_stem: bool) -> None:
        super().__init__()
        self.normalize = Normalize(spec)
        self.stem = stem
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(features, len(spec.classes))
        self.activate_stem = activate_stem

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, features) of images (B, C, H, W) in [0, 1]."""
        out: Tensor = self.blocks(self._stemmed(x)).mean((2, 3))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        out: Tensor = self.head(self.features(x))
        return out

    def maps(self, x: Tensor, blocks: int) -> Tensor:
        """Feature maps (B, channels, h, w) of images (B, C, H, W) in [0, 1] after the stem and so many blocks."""
        out: Tensor = self.blocks[:blocks](self._stemmed(x))
        return out

    def answer(self, maps: Tensor, blocks: int) -> Tensor:
        """Logits (B, classes) of such maps: the rest of the way, so that `answer(maps(x, n), n)` is `forward(x)`."""
        out: Tensor = self.head(self.blocks[blocks:](maps).mean((2, 3)))
        return out

    def _stemmed(self, x: Tensor) -> Tensor:
        x = self.stem(self.normalize(x).to(self.head.weight.dtype))
        return F.relu_(x) if self.activate_stem else x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, projected where the shape changes."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, stride=stride)
        self.second = ConvNorm(outputs, outputs)
        self.shortcut = ConvNorm(inputs, outputs, kernel=1, stride=stride) if stride != 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
        out = self.second(F.relu_(self.first(x)))
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside a shortcut; the last has four times the channels."""

    expansion = 4

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(inputs, outputs, kernel=1)
        self.spatial = ConvNorm(outputs, outputs, stride=stride)
        self.expand = ConvNorm(outputs, 4 * outputs, kernel=1)
        self.shortcut = ConvNorm(inputs, 4 * outputs, kernel=1, stride=stride) if stride != 1 or inputs != 4 * outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 outputs, H/stride, W/stride)."""
        out = self.expand(F.relu_(self.spatial(F.relu_(self.reduce(x)))))
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))


class PreActivationBlock(nn.Module):
    """Batch-norm and ReLU before each 3x3 convolution; the shortcut is projected from the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.first = ConvNorm(inputs, outputs, stride=stride)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = Pointwise(inputs, outputs, stride) if stride != 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
        active = F.relu_(self.norm(x))
        out: Tensor = self.second(F.relu_(self.first(active)))
        return torch.add(out, x if self.shortcut is None else self.shortcut(active))
