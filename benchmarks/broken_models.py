"""Models broken on purpose, and honest ones on the digits: what each alarm is for. benchmarks/alarms.py and the tests use them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dwf.attacks import Pgd
from dwf.core.seeds import Noise
from dwf.core.types import Routing, Spec, Threat
from dwf.data import Digits, ordered
from dwf.methods import Dwf
from dwf.models import Gate, Mixture, ResNet

EPS = 0.06
SPEC = Spec(classes=tuple("0123456789"), channels=1, height=16, width=16, mean=(0.3,), std=(0.35,))


def robustly_trained(model: nn.Module, epochs: int = 6, seed: int = 0) -> nn.Module:
    """A moment of PGD-3 training on the digits; the first epoch on clean images."""
    attack = Pgd(threat=Threat(eps=EPS), steps=3, step=EPS / 2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(epochs):
        for chunk in ordered(Digits()("train"), 100):
            model.eval()
            x = attack(model, chunk.x, chunk.y, Noise(seed + epoch, chunk.index)) if epoch else chunk.x
            model.train()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), chunk.y).backward()
            optimizer.step()
    return model.eval()


def honest_net(seed: int = 0) -> nn.Module:
    """A small ResNet that hides nothing."""
    torch.manual_seed(seed)
    return robustly_trained(ResNet(depth=10, width=6)(SPEC), seed=100 * seed)


def honest_mixture(seed: int = 0) -> Mixture:
    """Three experts and a gate, trained jointly, that hide nothing."""
    torch.manual_seed(seed)
    model = Dwf(backbone=ResNet(depth=10, width=4), benign=1, fgsm=0, pgd=2, gate=Gate(hidden=16)).model(SPEC)
    robustly_trained(model, seed=100 * seed)
    assert isinstance(model, Mixture)
    return model


class Quantised(nn.Module):
    """Rounds its input: the gradient is zero everywhere, and small changes are rounded away or amplified."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.model((x * 8).round() / 8)


class Detached(nn.Module):
    """Cuts the graph between image and features, and leaves a gradient that says nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.model(x.detach()) + 0 * x.flatten(1).sum(1, keepdim=True)


class Saturated(nn.Module):
    """Scales its logits until the cross-entropy is exactly zero in fp32, and its gradient with it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.model(x) * 1e5


class SaturatedMixture(nn.Module):
    """A soft mixture of probabilities whose experts' logits are x100: the gradient sees the loudest expert's rounding only."""

    def __init__(self, mixture: Mixture, factor: float = 100) -> None:
        super().__init__()
        self.mixture, self.factor = mixture, factor

    def route(self, x: Tensor) -> Routing:
        """The routing."""
        return self.surrogate(x, 1.0)

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        """The same, tempered."""
        weights = torch.softmax(self.mixture.gate.scores(x) / temperature, 1)
        opinions = self.mixture.bank(x) * self.factor
        mixed = (weights.unsqueeze(2) * torch.softmax(opinions, 2)).sum(1)
        return Routing(mixed.clamp(min=1e-30).log(), weights, opinions)

    def expert(self, x: Tensor, number: int) -> Tensor:
        """One expert."""
        return self.mixture.expert(x, number) * self.factor

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.route(x).logits


class BlockedGate(nn.Module):
    """A hard gate that decides everything: expert k always says class k, and the argmax lets no gradient through."""

    def __init__(self, model: nn.Module, classes: int = 10) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        chosen = nn.functional.one_hot(self.model(x).argmax(1), self.classes)
        return chosen * 10.0 + 1e-6 * x.flatten(1).sum(1, keepdim=True) * torch.arange(self.classes)


class Noisy(nn.Module):
    """Another answer each time."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.model(x) + torch.randn(len(x), 10) * 0.1
