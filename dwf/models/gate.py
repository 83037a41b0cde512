"""The gate: which expert to believe (DWF section 3; its layout is not stated there), and what stands for it in an ablation."""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dwf.core.settings import Settings
from dwf.core.types import Spec
from dwf.models.normalize import Normalize


class Gate(Settings):
    """The paper's "small MLP on the input": flatten, one hidden layer, softmax over the experts."""

    reads: Literal["image", "features", "nothing"] = "image"
    """The image, as in the paper; the experts' pooled features, side by side; or nothing, and all experts weigh the same."""
    hidden: int = Field(default=128, ge=1)
    """Hidden units. The paper does not state the layout; 128 on a CIFAR image is 0.39 M parameters."""
    pool: int | None = Field(default=None, ge=1)
    """Average the image down to pool x pool pixels first; None reads every pixel, as the paper does."""

    @model_validator(mode="after")
    def _pools_an_image(self) -> Self:
        if self.pool and self.reads != "image":
            raise ValueError(f"'pool' is {self.pool}, but a gate that reads {self.reads} has no image to pool; leave it out")
        return self

    def __call__(self, spec: Spec, experts: int, features: int = 0) -> AnyGateNet:
        """A freshly initialised gate over `experts` experts, whose pooled features are `features` numbers in all."""
        if self.reads == "nothing":
            return UniformGate(experts)
        return FeatureGate(features, experts, self.hidden) if self.reads == "features" else GateNet(spec, experts, self)


class GateNet(nn.Module):
    """(B, C, H, W) in [0, 1] -> weights (B, K), rows sum to 1."""

    def __init__(self, spec: Spec, experts: int, settings: Gate) -> None:
        super().__init__()
        self.normalize = Normalize(spec)
        self.pool = settings.pool
        height, width = (self.pool, self.pool) if self.pool else (spec.height, spec.width)
        self.hidden = nn.Linear(spec.channels * height * width, settings.hidden)
        self.head = nn.Linear(settings.hidden, experts)

    def scores(self, x: Tensor) -> Tensor:
        """Raw scores (B, K) in fp32 at least, before the softmax."""
        x = self.normalize(x)
        if self.pool:
            x = F.adaptive_avg_pool2d(x, self.pool)
        return _scores(self.hidden, self.head, x.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """Weights (B, K)."""
        return torch.softmax(self.scores(x), dim=1)


class FeatureGate(nn.Module):
    """The experts' pooled features (B, F) -> weights (B, K), rows sum to 1: it hears every expert before it chooses."""

    def __init__(self, features: int, experts: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, hidden)
        self.head = nn.Linear(hidden, experts)

    def scores(self, features: Tensor) -> Tensor:
        """Raw scores (B, K) in fp32 at least, before the softmax."""
        return _scores(self.hidden, self.head, features)

    def forward(self, features: Tensor) -> Tensor:
        """Weights (B, K)."""
        return torch.softmax(self.scores(features), dim=1)


class UniformGate(nn.Module):
    """Images (B, C, H, W) -> weights 1 / K for all: an ensemble. Nothing in it learns."""

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts

    def scores(self, x: Tensor) -> Tensor:
        """Zeros (B, K)."""
        return x.new_zeros(len(x), self.experts, dtype=torch.promote_types(x.dtype, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Weights (B, K)."""
        return torch.softmax(self.scores(x), dim=1)


AnyGateNet = GateNet | FeatureGate | UniformGate


def _scores(hidden: nn.Linear, head: nn.Linear, inputs: Tensor) -> Tensor:
    out: Tensor = head(F.relu(hidden(inputs.to(hidden.weight.dtype))))
    return out.to(torch.promote_types(out.dtype, torch.float32))
