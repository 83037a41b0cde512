"""The gate: which expert to believe, read off the same image that the experts see (DWF section 3; layout not stated there)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dwf.core.settings import Settings
from dwf.core.types import Spec
from dwf.models.normalize import Normalize


class Gate(Settings):
    """The paper's "small MLP on the input": flatten, one hidden layer, softmax over the experts."""

    hidden: int = Field(default=128, ge=1)
    """Hidden units. The paper does not state the layout; 128 on a CIFAR image is 0.39 M parameters."""
    pool: int | None = Field(default=None, ge=1)
    """Average the image down to pool x pool pixels first; None reads every pixel, as the paper does."""

    def __call__(self, spec: Spec, experts: int) -> GateNet:
        """A freshly initialised gate over `experts` experts."""
        return GateNet(spec, experts, self.hidden, self.pool)


class GateNet(nn.Module):
    """(B, C, H, W) in [0, 1] -> weights (B, K), rows sum to 1."""

    def __init__(self, spec: Spec, experts: int, hidden: int, pool: int | None) -> None:
        super().__init__()
        self.normalize = Normalize(spec)
        self.pool = pool
        height, width = (pool, pool) if pool else (spec.height, spec.width)
        self.hidden = nn.Linear(spec.channels * height * width, hidden)
        self.head = nn.Linear(hidden, experts)

    def scores(self, x: Tensor) -> Tensor:
        """Raw scores (B, K) in fp32 at least, before the softmax."""
        x = self.normalize(x)
        if self.pool:
            x = F.adaptive_avg_pool2d(x, self.pool)
        out: Tensor = self.head(F.relu(self.hidden(x.flatten(1).to(self.hidden.weight.dtype))))
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Weights (B, K)."""
        return torch.softmax(self.scores(x), dim=1)
