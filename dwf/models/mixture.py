"""The prediction of DWF: all experts always active, their logits summed with the gate's weights (equations 1 and 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dwf.core.types import Routing
from dwf.models.bank import ExpertBank
from dwf.models.gate import GateNet


class Mixture(nn.Module):
    """w = softmax(g(x)), z(x) = sum_i w_i(x) f_i(x): (B, C, H, W) in [0, 1] -> logits (B, classes)."""

    def __init__(self, bank: ExpertBank, gate: GateNet) -> None:
        super().__init__()
        self.bank = bank
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """The mixed logits z(x)."""
        return self.route(x).logits

    def route(self, x: Tensor) -> Routing:
        """Mixed logits, weights w(x) and the experts' logits f_i(x)."""
        return self._mix(x, self.gate(x))

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        """The mixture with the gate's scores divided by `temperature`; 1 is the mixture itself."""
        return self._mix(x, torch.softmax(self.gate.scores(x) / temperature, dim=1))

    def expert(self, x: Tensor, number: int) -> Tensor:
        """The logits (B, classes) of one expert."""
        opinion: Tensor = self.bank[number](x)
        return opinion.to(torch.promote_types(opinion.dtype, torch.float32))

    def _mix(self, x: Tensor, weights: Tensor) -> Routing:
        opinions = self.bank(x)  # (B, K, classes)
        return Routing((weights.unsqueeze(2) * opinions).sum(1), weights, opinions)
