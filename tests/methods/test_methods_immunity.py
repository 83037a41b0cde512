"""What makes Immunity: heatmaps in the graph, their two losses, and gate rows that are switched at every pass."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from switched_system import system
from tiny_methods import Repeated, batch, build, ready, tiny
from torch import nn

from dwf.core.errors import Refused
from dwf.core.seeds import Noise, drawing
from dwf.core.types import Routed, Switched
from dwf.methods import Immunity
from dwf.methods.immunity import SwitchedMixture, displacement, mutual_information
from dwf.models import AttackCopy
from dwf.training.mover import Mover
from dwf.training.plan import Update

CPU = torch.device("cpu")


def updates(count: int, images: int = 20, *, alike: bool = False, **changes: Any) -> list[Update]:
    """So many optimizer steps on one batch, of experts that are `alike` or not at the start."""
    method = tiny("immunity", **changes)
    model = build(method)
    if alike:
        source = torch.Generator().manual_seed(0)
        for net in model.bank[1:]:
            net.load_state_dict(model.bank[0].state_dict())
            for parameter in net.parameters():
                parameter.data += 0.1 * parameter.data.std() * torch.randn(parameter.shape, generator=source)
    (phase,) = method.phases(model)
    mover, found = Mover(phase.learners["all"]), []
    for update in phase.round(ready(phase), Repeated(batch(images), count)):
        found.append(update)
        mover.take(update, 0.0)
    return found


@pytest.mark.parametrize("steps", [0, 2])
def test_one_update_reaches_every_expert_and_the_gate(steps: int) -> None:
    method = tiny("immunity", steps=steps)
    (phase,) = method.phases(build(method))
    subject = ready(phase)
    (update,) = phase.round(subject, Repeated(batch(), 1))
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(update.loss, list(subject.parameters())))


@pytest.mark.parametrize("steps", [0, 2])
def test_the_loss_is_the_sum_that_is_stated(steps: int) -> None:
    (update,) = updates(1, steps=steps, diversity=3.0, stability=7.0)
    parts = {name: value.item() for name, value in update.log.items()}
    total = parts["loss_whole"] + parts["loss_experts"] + 3 * parts["mutual_information"] + 7 * parts["displacement"]
    assert update.loss.item() == pytest.approx(total, rel=1e-5)
    assert parts["displacement"] > 0
    (other,) = updates(1, steps=2 - steps)
    assert other.log["loss_whole"] != update.log["loss_whole"], "adversarial training learns the moved images"


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("switched", [0.0, 1.0])
def test_the_loss_is_that_of_the_switched_mixture(switched: float, steps: int) -> None:
    """Recomputed from what the method drew: which images, whose weights, which halves of the heatmaps."""
    method = tiny("immunity", steps=steps, switched=switched)
    (phase,) = method.phases(system())
    model = ready(phase)
    assert isinstance(model, SwitchedMixture)
    (draw,) = Repeated(batch(), 1)
    switch, victim = method._switch(draw.noise), AttackCopy(model)
    x, moved = draw.x, method._moved(victim, draw, switch)
    (update,) = phase.round(model, Repeated(batch(), 1))
    both = torch.cat([x, moved])
    opinions, heat = model.watched(model.maps(both), draw.y.repeat(2))
    half = slice(len(x), None) if steps else slice(len(x))
    weights = model.gate(both)[half].gather(1, switch)
    assert (weights != model.gate(both)[half]).any() == (switched > 0)
    whole = F.cross_entropy((weights[..., None] * opinions[half]).sum(1), draw.y)
    each = torch.stack([F.cross_entropy(opinions[half, number], draw.y) for number in range(4)]).mean()
    expected = {
        "loss_whole": whole,
        "loss_experts": each,
        "mutual_information": mutual_information(heat[half], method.bins),
        "displacement": displacement(heat[: len(x)], heat[len(x) :]),
    }
    for name, value in expected.items():
        torch.testing.assert_close(update.log[name], value.detach(), rtol=1e-4, atol=1e-6, msg=name)


def test_images_that_do_not_move_displace_nothing() -> None:
    (update,) = updates(1, threat={"eps": 0})
    assert update.log["displacement"].item() == pytest.approx(0, abs=1e-9)


def test_a_large_weight_makes_experts_that_are_alike_look_at_different_things() -> None:
    with_it, without = (
        [u.log["mutual_information"].item() for u in updates(10, 120, alike=True, experts=2, diversity=weight, steps=0)]
        for weight in (5.0, 0.0)
    )
    assert with_it[0] == pytest.approx(without[0])
    assert sum(with_it[-3:]) < 0.1 * with_it[0]
    assert sum(with_it[-3:]) < 0.5 * sum(without[-3:])


def test_a_large_weight_holds_the_heat_still() -> None:
    with_it, without = (
        [u.log["displacement"].item() for u in updates(24, experts=2, stability=w, steps=0, threat={"eps": 0.3})] for w in (100, 0)
    )
    assert sum(with_it[-8:]) < 0.7 * sum(without[-8:])


@pytest.mark.parametrize("switched", [0.0, 0.5, 1.0])
def test_the_stated_share_of_the_training_images_is_switched(switched: float) -> None:
    drawn = Immunity(switched=switched)._switch(Noise.rows(0, 4000))
    assert torch.equal(drawn.sort(1).values, torch.arange(4).expand(4000, -1))
    moved = (drawn != torch.arange(4)).any(1).float().mean().item()
    assert moved == pytest.approx(switched * 23 / 24, abs=0.03), "one of the 24 permutations is the identity"


def test_every_pass_draws_for_every_image() -> None:
    model, x = system(), batch().x
    with drawing(0, CPU):
        first, second = model.route(x), model.route(x)
    assert (first.weights != second.weights).any(1).float().mean() > 0.5
    assert not torch.allclose(first.logits, second.logits, atol=1e-3)
    torch.testing.assert_close(first.weights.sort(1).values, model.gate(x).sort(1).values)
    assert torch.equal(first.opinions, second.opinions)
    with drawing(0, CPU):
        assert torch.equal(model(x), first.logits)
    alike = system().route(x[:1].expand(200, -1, -1, -1)).weights
    assert len(alike.unique(dim=0)) == 24, "each image of a batch has a draw of its own"


def test_a_fixed_permutation_moves_the_gates_rows() -> None:
    model, x = system(), batch().x
    assert isinstance(model, Switched)
    assert model.permutations == tuple(permutations(range(4)))
    weights = model.gate(x)
    for permutation in model.permutations:
        held = model.fixed(permutation)
        assert isinstance(held, Routed)
        routing = held.route(x)
        assert torch.equal(routing.weights, weights[:, list(permutation)])
        torch.testing.assert_close(routing.logits, (routing.weights.unsqueeze(2) * routing.opinions).sum(1))
        assert torch.equal(held(x), routing.logits)
        torch.testing.assert_close(held.surrogate(x, 1.0).logits, routing.logits)
    assert all(ours is theirs for ours, theirs in zip(held.parameters(), model.parameters(), strict=True))


def test_more_experts_have_some_of_their_permutations_listed() -> None:
    model = build(tiny("immunity", experts=5))
    assert isinstance(model, Switched)
    assert model.permutations[0] == (0, 1, 2, 3, 4)
    assert len(set(model.permutations)) == len(model.permutations) == 24
    with pytest.raises(Refused, match=r"\(0, 0, 1, 2, 3\) is no permutation of 5 experts; give each of 0 ... K-1 once"):
        model.fixed((0, 0, 1, 2, 3))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_attack_copy_switches_like_the_original(precision: torch.dtype) -> None:
    model, x = system(), batch().x
    copy = AttackCopy(model, precision)
    inner = copy.inner
    assert isinstance(inner, SwitchedMixture)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    near = 1e-4 if precision == torch.float32 else 0.1
    for held, ours in ((model.fixed((2, 0, 3, 1)), inner.fixed((2, 0, 3, 1))), (model, copy)):
        with drawing(3, CPU):
            expected = held(x)
        with drawing(3, CPU):
            found = ours(x)
        assert found.dtype == torch.float32
        assert (found - expected).abs().max() < near
    assert (copy(x) - copy(x)).abs().max() > 1e-3


@pytest.mark.parametrize(("change", "words"), [
    ({"experts": 1}, "'experts' is 1: input should be greater than or equal to 2"),
    ({"switched": 1.5}, "'switched' is 1.5"),
    ({"bins": 1}, "'bins' is 1"),
])  # fmt: skip
def test_wrong_settings_are_refused_in_a_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        Immunity.read(change)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
