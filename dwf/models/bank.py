"""The experts side by side: a list, so that each is an ordinary module with a phase of its own."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class Featured(Protocol):
    """A net that tells what its linear head reads: logits = head(features(x))."""

    head: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, F) of images (B, C, H, W) in [0, 1]."""
        ...


class ExpertBank(nn.ModuleList):
    """K experts on the same images: (B, C, H, W) in [0, 1] -> opinions (B, K, classes), each expert's logits."""

    def __init__(self, experts: Iterable[nn.Module]) -> None:
        super().__init__(experts)

    def forward(self, x: Tensor) -> Tensor:
        """Every expert's logits, in fp32 at least: they are mixed and compared."""
        return _opinions([expert(x) for expert in self])

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features of all experts side by side (B, F) and opinions (B, K, classes), in one pass.

        All experts are `Featured`.
        """
        experts = [expert for expert in self if isinstance(expert, Featured)]
        features = [expert.features(x) for expert in experts]
        opinions = [expert.head(found) for expert, found in zip(experts, features, strict=True)]
        return torch.cat(features, dim=1), _opinions(opinions)


def _opinions(logits: list[Tensor]) -> Tensor:
    opinions = torch.stack(logits, dim=1)
    return opinions.to(torch.promote_types(opinions.dtype, torch.float32))
