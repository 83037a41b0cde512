"""The reweighed attack: as strong as APGD, honest about the gate's gradient and about its bill."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwf.attacks import ApgdCe
from dwf.core.types import Batch, Images, Routing, Spec, Threat
from dwf.evaluation.attacked import Attacked
from dwf.evaluation.check import Standing
from dwf.evaluation.reweighed import Reweighed, _gap, _Lens
from dwf.evaluation.sweep import Clean
from dwf.evaluation.victim import Victim
from dwf.models import ExpertBank, Gate, Mixture
from dwf.models.mixture import Mixing

THREAT = Threat(eps=0.1)


def victim(model: nn.Module) -> Victim:
    return Victim(model, torch.float32, seed=3)


def test_breaks_about_as_much_as_auto_pgd(mixture: Mixture, batch: Batch) -> None:
    target, standing, clean = victim(mixture), Standing(batch), Clean()
    standing.add(clean.rows(), clean(target, batch, standing).bits)
    reweighed = Reweighed(THREAT, steps=15, after=())(target, batch, standing).bits["reweighed"]
    strongest = Attacked("apgd-ce", ApgdCe(threat=THREAT, steps=60), after=())(target, batch, standing).bits["apgd-ce"]
    assert reweighed.float().mean() <= strongest.float().mean() + 0.05
    assert (reweighed <= standing.after(())).all()


@pytest.mark.parametrize("gate_gradient", [True, False])
@pytest.mark.parametrize("mixing", ["logits", "log-probabilities", "probabilities"])
def test_follows_the_gate_only_where_it_says_so(mixing: Mixing, gate_gradient: bool, digits: Images, batch: Batch) -> None:
    spec = Spec(classes=digits.classes, channels=1, height=16, width=16, mean=(0.3,), std=(0.35,))
    torch.manual_seed(0)
    bank = ExpertBank(nn.Sequential(nn.Flatten(), nn.Linear(256, 10)) for _ in range(2))
    model = Mixture(bank, Gate(hidden=16)(spec, 2, None), mixing)
    for share in (0.5, 1.0):
        lens = _Lens(model, victim(model), batch.y, beta=0.5, share=share, gate_gradient=gate_gradient)
        moved = torch.autograd.grad(lens.loss(batch.x).sum(), list(model.gate.parameters()), allow_unused=True)
        assert any(found is not None and found.any() for found in moved) is gate_gradient


def test_the_gap_scales_the_score_and_is_not_ascended() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.5]], requires_grad=True)
    assert _gap(logits).tolist() == [[2.0]]
    assert not _gap(logits).requires_grad


class Hard(nn.Module):
    """Decides by the surer of two experts, and counts who asks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(256, 10) for _ in range(2))
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.route(x).logits

    def route(self, x: Tensor) -> Routing:
        soft = self.surrogate(x, 1.0)
        chosen = soft.weights.argmax(1)
        weights = nn.functional.one_hot(chosen, 2).float()
        return Routing(soft.opinions[torch.arange(len(x)), chosen], weights, soft.opinions)

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        self.asked += len(x)
        opinions = torch.stack([expert(x.flatten(1)) for expert in self.experts], 1)
        weights = torch.softmax(opinions.amax(2) / temperature, 1)
        return Routing((weights.unsqueeze(2) * opinions).sum(1), weights, opinions)

    def expert(self, x: Tensor, number: int) -> Tensor:
        answer: Tensor = self.experts[number](x.flatten(1))
        return answer


def test_a_hard_routers_own_answers_are_billed_too(batch: Batch) -> None:
    model = Hard()
    target = victim(model)
    inner = target.routed
    assert isinstance(inner, Hard)
    target.shares(batch.x)  # counted once, and not by this test
    model.asked = inner.asked = 0
    Reweighed(THREAT, steps=4, after=())(target, batch, Standing(batch))
    assert target.meter.forwards == inner.asked + (model.asked if model is not inner else 0)
