"""The first layer of every model, so that attacks, thresholds and images all live in pixel space [0, 1]."""

import torch
from torch import Tensor, nn

from dwf.core.types import Spec


class Normalize(nn.Module):
    """(B, C, H, W) in [0, 1] -> the same standardised per channel. The constants travel with the weights, as buffers."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """In the precision of the constants: an image never passes through bf16 before it is centred."""
        return (x - self.mean) / self.std
