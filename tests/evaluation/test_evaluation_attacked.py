"""The check made of any attack: who is attacked, through which view, and who judges."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwf.attacks import ApgdCe, Pgd
from dwf.core.errors import Refused
from dwf.core.result import DatasetEntry, ModelEntry
from dwf.core.seeds import Noise
from dwf.core.types import Batch, Classifier, Images, Spec, Threat
from dwf.data import ordered
from dwf.evaluation import Standard
from dwf.evaluation.attacked import Attacked, attacked
from dwf.evaluation.check import Row, Standing
from dwf.evaluation.experts import ExpertsAlone, Panel, Rerouting
from dwf.evaluation.protocol import evaluate
from dwf.evaluation.sweep import Clean
from dwf.evaluation.tabulate import Subject
from dwf.evaluation.victim import Victim
from dwf.evaluation.views import WHOLE, Another, Expert, FrozenRouting, Softened, Surrogate, WeightedLogits
from dwf.methods import Advmoe
from dwf.models import ExpertBank, Gate, Mixture, ResNet
from dwf.models.cost import multiply_adds
from dwf.models.mixture import Mixing

THREAT = Threat(eps=0.1)
PGD = Pgd(threat=THREAT, steps=5, step=0.03)


def victim(model: nn.Module, **others: nn.Module) -> Victim:
    return Victim(model, torch.float32, seed=3, surrogates=others)


def begun(target: Victim, batch: Batch) -> Standing:
    """After the clean images."""
    standing, clean = Standing(batch), Clean()
    standing.add(clean.rows(), clean(target, batch, standing).bits)
    return standing


def test_standing_counts_the_balls_inside() -> None:
    batch = Batch(torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64), torch.arange(4))
    standing = Standing(batch)

    def add(name: str, threat: Threat, *bits: int) -> None:
        standing.add([Row(name, threat, 1, 1, 0.1)], {name: torch.tensor(bits, dtype=torch.bool)})

    add("clean", Threat(eps=0), 1, 1, 1, 0)
    add("small", Threat(eps=0.1), 0, 1, 1, 1)
    add("large", Threat(eps=0.2), 1, 0, 1, 1)
    add("other", Threat(norm="l2", eps=0.05), 1, 1, 0, 1)
    assert standing.under(Threat(eps=0.1)).tolist() == [False, True, True, False]
    assert standing.under(Threat(eps=0.2)).tolist() == [False, False, True, False]
    assert standing.under(Threat(norm="l2", eps=1)).tolist() == [True, True, False, False]
    assert standing.after(("large",)).tolist() == [True, False, True, False]
    assert standing.after(()).tolist() == [True, True, True, False]


def test_only_survivors_are_attacked(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    standing = begun(target, batch)
    first = Attacked("first", PGD)
    bits = first(target, batch, standing).bits["first"]
    standing.add(first.rows(), {"first": bits})
    spent = target.meter.backwards
    second = Attacked("second", PGD)(target, batch, standing).bits["second"]
    assert target.meter.backwards - spent == 5 * int(bits.sum())
    assert (second <= bits).all(), "a row on survivors is cumulative"
    again = Attacked("again", PGD, after=())(target, batch, standing).bits["again"]
    assert (again <= standing.after(())).all()
    assert again.sum() >= second.sum()


def test_rows_have_noise_of_their_own(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    assert not torch.equal(target.noise(batch, "a").uniform((3,)), target.noise(batch, "b").uniform((3,)))


class Rounded(nn.Module):
    """A copy that names class 0 whatever it sees, and so takes every other class for broken."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 10) + 0 * x.flatten(1).sum(1, keepdim=True)


def test_what_fools_the_copy_alone_is_attacked_on_the_original(mixture: Mixture, batch: Batch) -> None:
    honest, blind = victim(mixture), victim(mixture)
    blind.copy = blind.through(Rounded())
    attack = ApgdCe(threat=THREAT, steps=10)
    expected, _ = attacked(attack, WHOLE, honest, batch, honest.noise(batch))
    found, images = attacked(attack, WHOLE, blind, batch, blind.noise(batch))
    others = batch.y != 0
    assert found[others].sum() <= expected[others].sum() + 1
    with torch.no_grad():
        assert torch.equal(mixture(images).argmax(1) == batch.y, found)


@torch.no_grad()
def test_views_show_what_they_say(mixture: Mixture, batch: Batch) -> None:
    target, x = victim(mixture), batch.x
    moved = (x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    clean, there = mixture.route(x), mixture.route(moved)

    def shown(view: object) -> Tensor:
        return view(target, x)(moved)  # type: ignore[operator]

    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(shown(WHOLE), there.logits, **close)
    torch.testing.assert_close(shown(FrozenRouting()), (clean.weights.unsqueeze(2) * there.opinions).sum(1), **close)
    torch.testing.assert_close(shown(WeightedLogits()), there.logits, **close)
    torch.testing.assert_close(shown(Expert(1)), there.opinions[:, 1], **close)
    torch.testing.assert_close(shown(Surrogate(1.0)), there.logits, **close)
    voices = (there.weights.unsqueeze(2) * torch.softmax(there.opinions / 3, 2)).sum(1)
    torch.testing.assert_close(shown(Softened(1.0, 3.0)).softmax(1), voices, **close)
    torch.testing.assert_close(Another("twin")(victim(mixture, twin=mixture), x)(moved), there.logits, **close)


@torch.no_grad()
def test_experts_are_billed_by_what_they_compute(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    alone = [
        multiply_adds(partial(mixture.expert, number=number), batch.x[:1]) / multiply_adds(mixture, batch.x[:1])
        for number in (0, 1)
    ]
    assert target.shares(batch.x) == (1, tuple(alone))
    Expert(0)(target, batch.x)(batch.x)
    assert target.meter.forwards == pytest.approx(len(batch.y) * alone[0])


@torch.no_grad()
def test_a_hard_routers_opinions_cost_more_than_its_answer(batch: Batch) -> None:
    spec = Spec(classes=("a", "b"), channels=1, height=16, width=16, mean=(0.3,), std=(0.35,))
    paths = Advmoe(backbone=ResNet(depth=10, width=4), router=ResNet(depth=10, width=4)).model(spec)
    target = victim(paths)
    every, alone = target.shares(batch.x)
    assert alone[0] == alone[1] < 1  # the router is not asked
    assert every == pytest.approx(1 + alone[0])
    Surrogate(1.0)(target, batch.x)(batch.x)
    assert target.meter.forwards == pytest.approx(len(batch.y) * every)


@torch.no_grad()
@pytest.mark.parametrize("mixing", ["logits", "log-probabilities", "probabilities"])
def test_frozen_routing_mixes_as_the_model_does(mixing: Mixing, batch: Batch) -> None:
    """Under a gate that never looks at the image the routing is frozen already."""
    torch.manual_seed(0)
    bank = ExpertBank(nn.Sequential(nn.Flatten(), nn.Linear(256, 10)) for _ in range(3))
    spec = Spec(classes=tuple("0123456789"), channels=1, height=16, width=16, mean=(0.3,), std=(0.35,))
    target = victim(Mixture(bank, Gate(reads="nothing")(spec, 3, None), mixing))
    moved = (batch.x + 0.1).clamp(0, 1)
    shown, whole = FrozenRouting()(target, batch.x)(moved), target.copy(moved)
    torch.testing.assert_close(shown.log_softmax(1), whole.log_softmax(1))


def test_a_net_without_experts_is_refused(batch: Batch) -> None:
    with pytest.raises(Refused, match="Linear has no experts to attack one by one"):
        FrozenRouting()(Victim(nn.Linear(2, 2), torch.float32, 0), batch.x)


def test_the_routing_is_moved_and_the_share_told(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    outcome = Rerouting("routing", PGD, after=())(target, batch, begun(target, batch))
    asked = torch.isfinite(outcome.facts["rerouted"])
    assert torch.equal(asked, begun(target, batch).after(()))
    assert set(outcome.facts["rerouted"][asked].tolist()) <= {0.0, 1.0}
    far = Pgd(threat=Threat(eps=0.9), steps=20, step=0.1)
    easy = Rerouting("routing", far, after=())(target, batch, begun(target, batch)).facts["rerouted"]
    assert easy.nanmean() > 0.5


def test_experts_are_judged_by_themselves_and_by_the_system(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    outcome = ExpertsAlone(2, (PGD, ApgdCe(threat=THREAT, steps=5)))(target, batch, begun(target, batch))
    assert set(outcome.bits) == {"expert-1", "expert-2"}
    with torch.no_grad():
        own = (mixture.expert(batch.x, 0).argmax(1) == batch.y).float()
    assert torch.equal(outcome.facts["expert-1/clean"], own)
    assert (outcome.facts["expert-1/robust"] <= own).all()
    assert (outcome.bits["expert-1"] <= begun(target, batch).after(())).all()


def test_the_panel_knows_the_oracle(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    facts = Panel(PGD)(target, batch, begun(target, batch)).facts
    with torch.no_grad():
        opinions = mixture.route(batch.x).opinions
    assert torch.equal(facts["oracle/clean"], (opinions.argmax(2) == batch.y[:, None]).any(1).float())
    assert facts["oracle/pgd"].mean() <= facts["oracle/clean"].mean()


def test_a_surrogate_that_nothing_uses_is_refused(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    batches = list(ordered(digits, 20))
    about = ModelEntry(method="toy", settings={}, parameters=1, forward_passes=1)
    images = DatasetEntry(name="digits", split="test", n=len(digits), indices="all", sha256="")
    subject = Subject("toy", about, images, digits.classes, "cpu", ("0", "0"))
    with pytest.raises(Refused, match="protocol 'standard' transfers no images from other models; leave --surrogate out"):
        evaluate(mixture, Standard(), batches, subject, tmp_path, surrogates={"other": mixture}, precision=torch.float32)


def test_whom_only_the_copy_led_to_the_goal_is_attacked_again(batch: Batch) -> None:
    """Named a third class by the original, which is an error and not the goal."""
    y, asked = torch.zeros_like(batch.y), []

    class Still:
        threat = THREAT

        def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
            asked.append(model)
            return x

    class Named(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.full((len(x),), 1), 10).float()

    target = victim(Named())
    target.copy = target.through(lambda x: nn.functional.one_hot(torch.full((len(x),), 2), 10).float())
    zeros = Batch(batch.x, y, batch.index)
    attacked(Still(), WHOLE, target, zeros, target.noise(zeros))
    assert asked == [target.copy]
    attacked(Still(), WHOLE, target, zeros, target.noise(zeros), goal=2)
    assert asked == [target.copy, target.copy, target.original]
