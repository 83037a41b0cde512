"""Models broken on purpose: each hides its weakness from one kind of attack, and none is robust."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dwf.core.types import Routing
from dwf.models import Mixture


class Quantised(nn.Module):
    """Rounds its input: the gradient is zero everywhere, and small changes are rounded away or amplified."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 8).round() / 8)


class Detached(nn.Module):
    """Cuts the graph between image and features, and leaves a gradient that says nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach()) + 0 * x.flatten(1).sum(1, keepdim=True)


class Saturated(nn.Module):
    """Scales its logits until the cross-entropy is exactly zero in fp32, and its gradient with it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * 1e5


class SaturatedMixture(nn.Module):
    """A soft mixture of probabilities whose experts' logits are x100: the gradient sees the loudest expert's rounding only."""

    def __init__(self, mixture: Mixture, factor: float = 100) -> None:
        super().__init__()
        self.mixture, self.factor = mixture, factor

    def route(self, x: Tensor) -> Routing:
        return self.surrogate(x, 1.0)

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        weights = torch.softmax(self.mixture.gate.scores(x) / temperature, 1)
        opinions = self.mixture.bank(x) * self.factor
        mixed = (weights.unsqueeze(2) * torch.softmax(opinions, 2)).sum(1)
        return Routing(mixed.clamp(min=1e-30).log(), weights, opinions)

    def expert(self, x: Tensor, number: int) -> Tensor:
        return self.mixture.expert(x, number) * self.factor

    def forward(self, x: Tensor) -> Tensor:
        return self.route(x).logits


class BlockedGate(nn.Module):
    """A hard gate that decides everything: expert k always says class k, and the argmax lets no gradient through."""

    def __init__(self, model: nn.Module, classes: int = 10) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, x: Tensor) -> Tensor:
        chosen = nn.functional.one_hot(self.model(x).argmax(1), self.classes)
        return chosen * 10.0 + 1e-6 * x.flatten(1).sum(1, keepdim=True) * torch.arange(self.classes)
