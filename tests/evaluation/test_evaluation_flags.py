"""Each alarm with a model broken on purpose that raises it, and with one that does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dwf.core.types import Batch, Threat
from dwf.evaluation import flags
from dwf.evaluation.check import Findings, Standing
from dwf.evaluation.moe import worth
from dwf.evaluation.sweep import FgsmSweep, PgdSweep
from dwf.evaluation.victim import Victim
from dwf.models import Mixture


def bits(rate: float, n: int = 1000) -> np.ndarray:
    return np.arange(n) < rate * n


def attacked(model: nn.Module, batch: Batch, eps: float, step: float, steps: int = 20) -> dict[str, np.ndarray]:
    victim, standing = Victim(model, torch.float32, 0), Standing(batch)
    found = FgsmSweep((("fgsm", Threat(eps=eps)),))(victim, batch, standing).bits
    found = {**found, **PgdSweep(Threat(eps=eps), step, (steps,), steps + 1, 1, 1)(victim, batch, standing).bits}
    return {name: value.numpy() for name, value in found.items()}


class Shattered(nn.Module):
    """A ripple of high frequency under the images: the gradient is right at the image and random after one small step."""

    def __init__(self, model: nn.Module, images: torch.Tensor) -> None:
        super().__init__()
        self.model, self.images = model, images

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.model(x)
        away = (x - self.images[: len(x)]).abs().flatten(1).amax(1) > 1e-6
        ripple = torch.sin(x * 2e4).flatten(1).sum(1, keepdim=True) * torch.arange(10) * 0.5
        return torch.where(away[:, None], logits + ripple - ripple.detach(), logits)


def test_a_shattered_gradient_lets_fgsm_beat_pgd(mixture: Mixture, batch: Batch) -> None:
    found = attacked(Shattered(mixture, batch.x), batch, 0.2, 0.02)
    flag = flags.fgsm_beats_pgd(found["fgsm"], found["pgd-20"])
    assert flag is not None
    assert (flag.code, flag.class_) == ("fgsm_beats_pgd", "trust")
    assert flag.value > 0.01
    honest = attacked(mixture, batch, 0.2, 0.02)
    assert flags.fgsm_beats_pgd(honest["fgsm"], honest["pgd-20"]) is None


class Dented(nn.Module):
    """Right again at the very border of the ball, where FGSM lands, undefended inside: catastrophic overfitting in pure form."""

    def __init__(self, model: nn.Module, images: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.model, self.images, self.eps = model, images, eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = (x - self.images[: len(x)]).abs()
        border = ((moved > self.eps - 1e-6) | (moved < 1e-6) | (x <= 0) | (x >= 1)).flatten(1).all(1)
        clean = self.model(self.images[: len(x)]).detach()
        logits = self.model(x)
        return torch.where(border[:, None], clean + logits - logits.detach(), logits)


def test_one_step_robustness_is_called_overfitting(mixture: Mixture, batch: Batch) -> None:
    found = attacked(Dented(mixture, batch.x, 0.2), batch, 0.2, 0.03)
    flag = flags.fgsm_overfit(found["fgsm"], found["pgd-20"])
    assert flag is not None
    assert flag.value > 0.15
    assert "one-step attack alone" in flag.cause
    honest = attacked(mixture, batch, 0.2, 0.03)
    assert flags.fgsm_overfit(honest["fgsm"], honest["pgd-20"]) is None


def test_an_attack_that_has_not_converged_is_named() -> None:
    assert flags.no_convergence(bits(0.5), bits(0.5), ("50", "100 steps")) is None
    flag = flags.no_convergence(bits(0.5), bits(0.47), ("1", "3 restarts"))
    assert flag is not None
    assert "from 1 to 3 restarts" in flag.cause
    assert flag.value == pytest.approx(0.03)


def test_random_models_are_noticed() -> None:
    assert flags.randomized(0.0) is None
    flag = flags.randomized(0.3)
    assert flag is not None
    assert "protocol.eot" in flag.remedy


def test_a_collapsed_gate_is_worth_a_flag() -> None:
    rng = np.random.default_rng(0)
    one = np.full((100, 9), 0.01, np.float32)
    one[:, 4] = 0.92
    flag = flags.gate_collapse(one)
    assert flag is not None
    assert flag.class_ == "worth"
    few = np.zeros((100, 9), np.float32)
    few[:, :4] = 0.25
    assert flags.gate_collapse(few) is not None, "four of nine in effect is under half"
    assert flags.gate_collapse(rng.dirichlet(np.ones(9) * 5, 100).astype(np.float32)) is None


def test_a_fixed_average_does_not_specialise() -> None:
    same = np.tile(np.array([[0.4, 0.35, 0.25]], np.float32), (50, 1))
    flag = flags.no_specialisation(same)
    assert flag is not None
    assert flag.value == pytest.approx(0, abs=1e-6)
    assert flags.uniform(np.full((5, 3), np.float32(1 / 3)))
    assert not flags.uniform(same), "a gate that learnt to be a fixed average"
    assert flags.no_specialisation(np.eye(3, dtype=np.float32)[np.arange(60) % 3]) is None


def test_routing_is_described_by_weights_entropy_and_load() -> None:
    entry = flags.routing_entry(np.array([[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]], np.float32))
    assert entry.weights == pytest.approx((0.45, 0.55))
    assert entry.load == pytest.approx((2 / 3, 1 / 3))
    assert entry.entropy == pytest.approx(np.mean([0.5623, 0.6931, 0.3251]), abs=1e-3)
    assert entry.variation == pytest.approx(np.mean([0.3, 0.05, 0.35]))


def test_a_larger_ball_that_holds_more_survivors_is_named() -> None:
    assert flags.nonmonotone(bits(0.6), bits(0.5), ("0.01", "0.02")) is None
    flag = flags.nonmonotone(bits(0.5), bits(0.55), ("0.01", "0.02"))
    assert flag is not None
    assert flag.value == pytest.approx(0.05)
    assert "more correct at 0.02 than at 0.01" in flag.cause


def test_an_alarm_of_several_pairs_shares_its_level() -> None:
    """Eight samples against none: p = 1/256, enough for one pair at 5 %, and for twelve, and not for thirteen."""
    before, after = np.arange(100) < 50, np.arange(100) < 42
    for pairs, raised in ((1, True), (12, True), (13, False)):
        assert (flags.no_convergence(before, after, ("1", "2"), 0.05 / pairs) is not None) == raised
    alarms = flags.Alarms()
    alarms.test(None, flags.no_convergence(before, after, ("1", "2")))
    assert (alarms.tests, [flag.code for flag in alarms.raised]) == (1, ["no_convergence"])


def known(rate: float) -> np.ndarray:
    return bits(rate).astype(float)


@pytest.mark.parametrize(("modest", "raised"), [((0.58, 0.31), ["dead_weight"]), ((0.5, 0.31), []), ((0.58, 0.25), [])])
def test_any_expert_that_is_as_good_alone_makes_the_rest_dead_weight(modest: tuple[float, float], raised: list[str]) -> None:
    """Not only the most robust one, which may be poor on clean images."""
    found = {"clean": bits(0.6), "pgd": bits(0.33), "apgd-ce": bits(0.34)}
    facts = {"expert-1/clean": known(0.4), "expert-1/robust": known(0.34)}
    facts |= {"expert-2/clean": known(modest[0]), "expert-2/robust": known(modest[1])}
    alarms = worth(Findings(found, facts, 10), ("pgd", "apgd-ce"))
    assert [flag.code for flag in alarms.raised] == raised
    assert all("'expert-2' alone has SA 58.0% and RA 31.0%" in flag.cause for flag in alarms.raised)
    one = {name: fact for name, fact in facts.items() if name.startswith("expert-2")}
    assert worth(Findings(found, one, 10), ("pgd", "apgd-ce")).raised == []
