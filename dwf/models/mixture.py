"""The prediction of DWF: all experts always active, their logits summed with the gate's weights (equations 1 and 2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from dwf.core.types import Routing
from dwf.models.bank import ExpertBank
from dwf.models.gate import AnyGateNet, FeatureGate

Mixing = Literal["logits", "log-probabilities", "probabilities"]
"""What the gate's weights sum: sum_i w_i f_i, as in the paper; sum_i w_i log p_i; or log sum_i w_i p_i, with p_i = softmax f_i.

The second is the first up to a number that all classes of an image share: the same classifier, with the same loss."""


class Mixture(nn.Module):
    """w = softmax(g(x)), z(x) = sum_i w_i(x) f_i(x): (B, C, H, W) in [0, 1] -> logits (B, classes)."""

    def __init__(self, bank: ExpertBank, gate: AnyGateNet, mixing: Mixing = "logits") -> None:
        super().__init__()
        self.bank = bank
        self.gate = gate
        self.mixing = mixing

    def forward(self, x: Tensor) -> Tensor:
        """The mixed logits z(x)."""
        return self.route(x).logits

    def route(self, x: Tensor) -> Routing:
        """Mixed logits, weights w(x) and the experts' logits f_i(x)."""
        return self.surrogate(x, 1.0)

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        """The mixture with the gate's scores divided by `temperature`; 1 is the mixture itself."""
        scores, opinions = self._answers(x)  # (B, K), (B, K, classes)
        scores = scores / temperature
        weights = torch.softmax(scores, dim=1)
        if self.mixing == "logits":
            return Routing((weights.unsqueeze(2) * opinions).sum(1), weights, opinions)
        voices = torch.log_softmax(opinions, dim=2)
        if self.mixing == "log-probabilities":
            return Routing((weights.unsqueeze(2) * voices).sum(1), weights, opinions)
        # In log space, where no weight and no probability is too small to be heard.
        return Routing(torch.logsumexp(torch.log_softmax(scores, dim=1).unsqueeze(2) + voices, dim=1), weights, opinions)

    def expert(self, x: Tensor, number: int) -> Tensor:
        """The logits (B, classes) of one expert."""
        opinion: Tensor = self.bank[number](x)
        return opinion.to(torch.promote_types(opinion.dtype, torch.float32))

    def _answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(self.gate, FeatureGate):
            features, opinions = self.bank.answers(x)
            return self.gate.scores(features), opinions
        return self.gate.scores(x), self.bank(x)
