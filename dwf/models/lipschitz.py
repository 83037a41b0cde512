"""A net whose logits cannot move faster than a stated multiple of the pixels, whatever its weights are.

Each layer is 1-Lipschitz in L2: convolutions rescaled as in AOL (Prach, Lampert, ECCV 2022), MaxMin (Anil et al., ICML 2019) in
place of ReLU, space-to-depth in place of strides and pooling. The whole, standardisation undone, is multiplied by `scale`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.settings import Settings
from dwf.core.types import Spec
from dwf.models.normalize import Normalize


class Lipschitz(Settings):
    """Norm-bounded convolutions: for certified radii. The logits are `scale`-Lipschitz in L2, in pixels."""

    kind: Literal["lipschitz"] = "lipschitz"
    width: int = Field(default=32, ge=2, multiple_of=2)
    """Channels of the first stage; each further one doubles them."""
    stages: int = Field(default=2, ge=0)
    """Each halves the image and convolves it twice; with none the net is a single bounded linear layer."""
    scale: float = Field(default=10.0, gt=0)
    """Largest L2 change of the logits for an L2 change of the image by 1."""

    def __call__(self, spec: Spec) -> nn.Module:
        """A freshly initialised net; raises `Refused` for images that cannot be halved so often."""
        if spec.height % (1 << self.stages) or spec.width % (1 << self.stages):
            raise Refused(
                f"'stages' is {self.stages}, and images of {spec.height}x{spec.width} pixels cannot be halved so often; use fewer"
            )
        return LipschitzNet(spec, self.width, self.stages, self.scale)


class LipschitzNet(nn.Module):
    """(B, C, H, W) in [0, 1] -> logits (B, classes), `scale`-Lipschitz in L2."""

    def __init__(self, spec: Spec, width: int, stages: int, scale: float) -> None:
        super().__init__()
        self.normalize = Normalize(spec)
        layers: list[nn.Module] = []
        channels, pixels = spec.channels, spec.height * spec.width
        for stage in range(stages):
            wide = width << stage
            layers += [nn.PixelUnshuffle(2), BoundedConv(4 * channels, wide), MaxMin(), BoundedConv(wide, wide), MaxMin()]
            channels, pixels = wide, pixels // 4
        self.layers = nn.Sequential(*layers)
        self.head = BoundedConv(channels * pixels, len(spec.classes), kernel=1)
        self.scale = scale

    @property
    def factor(self) -> Tensor:
        """What the head's outputs are multiplied by: `scale`, with the slope of the standardisation taken back."""
        return self.scale * self.normalize.std.min()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        features = self.layers(self.normalize(x).to(next(self.head.parameters()).dtype)).flatten(1)
        out: Tensor = self.head(features[:, :, None, None]).flatten(1)
        return out.to(torch.promote_types(out.dtype, torch.float32)) * self.factor


class BoundedConv(nn.Module):
    """A k x k convolution with bias whose matrix W has an L2 norm of at most 1: (B, in, H, W) -> (B, out, H, W).

    W = D P or P D with free weights P and, on the side of fewer channels, D_ii = (sum_j |M_ij|)^(-1/2), M = P P^T or P^T P.
    Then diag(sum_j |M_ij|) - M is diagonally dominant, so D M D <= 1. On the infinite plane M is the convolution with the kernel's
    autocorrelation; zero padding only takes rows and columns away from that matrix, which raises no norm.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3) -> None:
        """Starts at an orthogonal matrix in the kernel's centre, where the bound is reached."""
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        nn.init.orthogonal_(matrix := torch.empty(outputs, inputs))
        with torch.no_grad():
            self.conv.weight.mul_(0.01)  # zeros would have no gradient through the absolute values of M
            self.conv.weight[:, :, kernel // 2, kernel // 2] += matrix

    def bounded(self) -> Tensor:
        """The weight (out, in, k, k) of the bounded convolution, differentiable in P."""
        free = self.conv.weight
        narrow = free if free.shape[0] <= free.shape[1] else free.transpose(0, 1)
        correlation = F.conv2d(narrow, narrow, padding=free.shape[-1] - 1)  # (n, n, 2k - 1, 2k - 1)
        shrink = correlation.abs().sum((1, 2, 3)).clamp(min=1e-12).rsqrt()
        return free * (shrink.view(-1, 1, 1, 1) if narrow is free else shrink.view(1, -1, 1, 1))

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the plain convolution that equals this module."""
        assert self.conv.bias is not None
        return self.bounded(), self.conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return F.conv2d(x, self.bounded(), self.conv.bias, padding=self.conv.padding)


class MaxMin(nn.Module):
    """Sorts pairs of channels, (B, 2 n, H, W) -> the same: 1-Lipschitz in L2 and in Linf, and no gradient is lost in L2."""

    def forward(self, x: Tensor) -> Tensor:
        """The larger of each pair first."""
        a, b = x.chunk(2, dim=1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)
