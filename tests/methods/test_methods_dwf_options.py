"""DWF with one part taken away or another in its place, as the ablations have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from test_methods_cost import passes
from tiny_methods import EIGHT, Repeated, batch, build, ready, run, state, tiny
from torch import nn

from dwf.core.errors import Refused
from dwf.methods import Dwf
from dwf.models import ExpertBank, Gate, Mixture, ResNet, WideResNet
from dwf.training.mover import Mover
from dwf.training.plan import Phase
from dwf.verbs import evaluate, train

FEW = ("protocol.steps=2", "protocol.apgd_steps=2", "protocol.temperatures=[[1, 10]]")
FEATURES, NOTHING = Gate(reads="features", hidden=8), Gate(reads="nothing")
OPTIONS: dict[str, dict[str, Any]] = {
    "one": {"benign": 0, "fgsm": 0},
    "trades": {"trades": 1},
    "backbones": {"backbones": (ResNet(depth=10, width=2), WideResNet(depth=10, widen=1), ResNet(depth=10, width=3))},
    "frozen": {"freeze_experts": True},
    "untrained": {"pretrain": False},
    "uniform": {"gate": NOTHING, "gate_warmup": 0},
    "features": {"gate": FEATURES},
    "probabilities": {"mixing": "probabilities"},
    "log-probabilities": {"mixing": "log-probabilities"},
    "clean and PGD": {"joint_regimes": ("clean", "pgd")},
}


def phases(**changes: Any) -> dict[str, Phase]:
    method = tiny("dwf", **changes)
    return {phase.name: phase for phase in method.phases(build(method))}


def moved(phase: Phase, steps: int = 2) -> set[str]:
    """Which children of the subject `steps` steps of the loop change."""
    before = state(phase.subject)
    (learner,) = phase.learners.values()
    subject, mover = ready(phase), Mover(learner, 1, None)
    for update in phase.round(subject, Repeated(batch(), steps)):
        mover.take(update, 0.5)
    return {name.split(".")[0] for name, tensor in phase.subject.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains_and_is_taken_apart_by_the_moe_protocol(name: str, tmp_path: Path) -> None:
    train(run(tiny("dwf", **OPTIONS[name])), tmp_path, device="cpu")
    result = evaluate(tmp_path, "moe", overrides=FEW, samples=20)
    assert {"frozen-routing", "routing", "surrogate"} <= {row.name for row in result.attacks}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_costs_what_it_states(name: str) -> None:
    method = tiny("dwf", pgd_steps=(2,), **OPTIONS[name])
    stated = method.cost()
    for phase in method.phases(build(method)):
        counted = passes(phase)
        assert (counted["forwards"], counted["backwards"]) == stated[phase.kind], phase.name


def test_trades_experts_stand_last_and_learn_by_themselves() -> None:
    named = phases(trades=2, gate_warmup=0)
    assert list(named) == ["benign-1", "fgsm-1", "pgd-1", "trades-1", "trades-2", "joint"]
    (update,) = named["trades-1"].round(ready(named["trades-1"]), Repeated(batch(), 1))
    assert set(update.log) == {"loss_clean", "loss_kl"}
    torch.testing.assert_close(update.loss.detach(), update.log["loss_clean"] + 6.0 * update.log["loss_kl"])


def test_backbones_are_dealt_in_order() -> None:
    bank = build(tiny("dwf", **OPTIONS["backbones"])).bank
    assert isinstance(bank, ExpertBank)
    assert [expert.head.in_features for expert in bank] == [16, 64, 24]


def test_frozen_experts_do_not_move_and_learn_no_statistics() -> None:
    assert moved(phases(freeze_experts=True)["joint"]) == {"gate"}
    assert moved(phases()["joint"]) == {"bank", "gate"}


def test_a_uniform_gate_weighs_all_alike_and_has_nothing_to_learn() -> None:
    mixture = build(tiny("dwf", **OPTIONS["uniform"])).eval()
    assert isinstance(mixture, Mixture)
    routing = mixture.route(batch().x)
    torch.testing.assert_close(routing.weights, torch.full_like(routing.weights, 1 / 3))
    torch.testing.assert_close(routing.logits, routing.opinions.mean(1))
    assert moved(phases(**OPTIONS["uniform"])["joint"]) == {"bank"}
    assert "joint" not in phases(freeze_experts=True, **OPTIONS["uniform"]), "an ensemble of trained experts is finished"


def test_without_pretraining_there_is_the_joint_phase_alone() -> None:
    named = phases(pretrain=False, gate_warmup=0)
    assert list(named) == ["joint"]
    assert named["joint"].needs == ()


def test_a_gate_on_features_hears_the_experts_and_hands_the_gradient_back() -> None:
    mixture = build(tiny("dwf", **OPTIONS["features"])).eval()
    assert isinstance(mixture, Mixture)
    x = batch().x
    features = torch.cat([expert.features(x) for expert in mixture.bank], 1)
    routing = mixture.route(x)
    torch.testing.assert_close(routing.weights, mixture.gate(features))
    torch.testing.assert_close(routing.opinions, mixture.bank(x))
    mixture.gate.scores(features).square().sum().backward()
    assert all(expert.stem.conv.weight.grad.any() for expert in mixture.bank)


def test_joint_images_are_those_of_the_named_regimes_in_their_order() -> None:
    phase = phases(joint_regimes=("pgd", "clean"))["joint"]
    (update,) = phase.round(ready(phase), Repeated(batch(), 1))
    assert [name for name in update.log if name.startswith("loss_")] == ["loss_pgd", "loss_clean"]
    assert update.log["loss_pgd"] > update.log["loss_clean"]
    torch.testing.assert_close(update.loss.detach(), (update.log["loss_pgd"] + update.log["loss_clean"]) / 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"benign": 0, "fgsm": 0, "pgd": 0}, "are all 0; raise one"),
        ({"backbones": (ResNet(),)}, "'backbones' lists 1 nets for 3 experts"),
        ({"pretrain": False, "freeze_experts": True}, "no expert would ever learn"),
        ({"gate": NOTHING, "gate_warmup": 1}, "nothing to learn"),
        ({"joint_regimes": ("pgd", "pgd")}, "name each regime once"),
        ({"joint_regimes": ()}, "joint_regimes"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        tiny("dwf", **changes)


def test_a_gate_that_has_no_image_cannot_pool_it() -> None:
    with pytest.raises(ValidationError, match="no image to pool"):
        Gate(reads="features", pool=4)


def test_a_gate_on_features_refuses_experts_that_tell_none() -> None:
    method = tiny("dwf", **OPTIONS["features"])
    with pytest.raises(Refused, match="Sequential"):
        Dwf._features(method, [nn.Sequential(nn.Flatten(), nn.Linear(64, 10))])


def test_a_mixture_of_probabilities_stays_finite_where_a_weight_and_a_probability_vanish() -> None:
    mixture = build(tiny("dwf", mixing="probabilities")).eval()
    assert isinstance(mixture, Mixture)
    with torch.no_grad():
        mixture.gate.head.bias[0] += 300
        mixture.bank[0].head.bias[3] += 300
    x = batch().x.requires_grad_()
    logits = mixture(x)
    assert logits.isfinite().all()
    assert torch.autograd.grad(logits[:, 0].sum(), x)[0].isfinite().all()
    assert EIGHT.classes[int(logits.argmax(1)[0])] == "3"
