"""The experts side by side: a list, so that each is an ordinary module with a phase of its own."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class ExpertBank(nn.ModuleList):
    """K experts on the same images: (B, C, H, W) in [0, 1] -> opinions (B, K, classes), each expert's logits."""

    def __init__(self, experts: Iterable[nn.Module]) -> None:
        super().__init__(experts)

    def forward(self, x: Tensor) -> Tensor:
        """Every expert's logits, in fp32 at least: they are mixed and compared."""
        opinions = torch.stack([expert(x) for expert in self], dim=1)
        return opinions.to(torch.promote_types(opinions.dtype, torch.float32))
