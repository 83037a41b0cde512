"""What a backbone costs, counted on the meta device: nothing is computed and no weight takes memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dwf.core.types import Spec


class Cost(NamedTuple):
    """Of one net."""

    parameters: int
    multiply_adds: int
    """Of the forward pass of one image, in convolutions and matrix products."""


@torch.no_grad()
def cost(backbone: Callable[[Spec], nn.Module], spec: Spec) -> Cost:
    """Parameters and multiply-adds of the net that `backbone` builds for `spec`; raises what building it raises."""
    with torch.device("meta"):
        model = backbone(spec).eval()
        x = torch.empty(1, spec.channels, spec.height, spec.width)
    with FlopCounterMode(display=False) as counter:
        model(x)
    return Cost(sum(parameter.numel() for parameter in model.parameters()), counter.get_total_flops() // 2)
