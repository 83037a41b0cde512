"""What a net costs, by counting the operations of a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dwf.core.types import Spec


class Cost(NamedTuple):
    """Of one net."""

    parameters: int
    multiply_adds: int
    """Of the forward pass of one image, in convolutions and matrix products."""


def cost(backbone: Callable[[Spec], nn.Module], spec: Spec) -> Cost:
    """Parameters and multiply-adds of the net that `backbone` builds for `spec`; raises what building it raises.

    Counted on the meta device: nothing is computed and no weight takes memory.
    """
    with torch.device("meta"):
        model = backbone(spec)
        x = torch.empty(1, spec.channels, spec.height, spec.width)
    return Cost(sum(parameter.numel() for parameter in model.parameters()), multiply_adds(model, x))


@torch.no_grad()
def multiply_adds(asked: Callable[[Tensor], object], x: Tensor) -> int:
    """Of what `asked` makes of the images `x` (B, C, H, W), which is run; a model is put into eval mode."""
    from torch.utils.flop_counter import FlopCounterMode  # late: it brings Triton

    if isinstance(asked, nn.Module):
        asked.eval()
    with FlopCounterMode(display=False) as counter:
        asked(x)
    total: int = counter.get_total_flops()
    return total // 2
