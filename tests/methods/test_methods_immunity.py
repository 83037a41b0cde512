"""What makes Immunity: heatmaps in the graph, their two losses, and gate rows that are switched at every pass."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_methods import EIGHT, FOUR, Repeated, batch, build, ready, tiny
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.seeds import Noise, drawing
from dwf.core.types import Routed, Switched
from dwf.methods import Immunity
from dwf.methods.immunity import SwitchedMixture, centres, displacement, map_depth, mutual_information
from dwf.models import AttackCopy, ResNet, WideResNet
from dwf.models.resnet import ConvNet
from dwf.training.mover import Mover
from dwf.training.plan import Update

CPU = torch.device("cpu")


def system(**changes: Any) -> SwitchedMixture:
    """Four experts that differ, with batch-norm statistics of their own, and a gate that has opinions."""
    model = build(tiny("immunity", **changes))
    assert isinstance(model, SwitchedMixture)
    with torch.no_grad():
        for _ in range(3):
            model.train()(batch().x)
        model.gate.head.weight.mul_(5)
    return model.eval()


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


def levels(*values: float) -> Tensor:
    """One image's heatmap (1, 1, h, w) of one row."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_identical_maps_share_all_their_information() -> None:
    """Every bin's own value, equally often: the entropy of a fair die of 8 sides."""
    one = levels(*range(8))
    assert mutual_information(torch.cat([one, one], 1), 8).item() == pytest.approx(math.log(8))
    assert mutual_information(torch.cat([one, 7 - one], 1), 8).item() == pytest.approx(math.log(8)), "a mirrored map tells as much"


def test_independent_maps_share_none() -> None:
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    assert mutual_information(torch.stack([rows, columns])[None], 8).item() == pytest.approx(0, abs=1e-6)
    source = torch.Generator().manual_seed(0)
    noise = torch.rand(64, 2, 16, 16, generator=source)
    assert 0 <= mutual_information(noise, 8).item() < 0.01
    assert mutual_information(noise[:, [0, 0]], 8).item() > 1


def test_a_value_between_two_bins_is_shared_between_them() -> None:
    """Two bins and values 0, 1/2, 1: the joint table of a map with itself is [[5, 1], [1, 5]] / 12."""
    one = levels(0, 0.5, 1)
    expected = 2 * 5 / 12 * math.log(4 * 5 / 12) + 2 / 12 * math.log(4 / 12)
    assert mutual_information(torch.cat([one, one], 1), 2).item() == pytest.approx(expected)


def test_pairs_of_experts_are_averaged_and_scale_does_not_matter() -> None:
    heat = torch.rand(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = [mutual_information(heat[:, pair], 8) for pair in ([0, 1], [0, 2], [1, 2])]
    torch.testing.assert_close(mutual_information(heat, 8), torch.stack(pairs).mean())
    stretched = heat * torch.tensor([1.0, 10.0, 0.1]).view(1, 3, 1, 1) + 2
    torch.testing.assert_close(mutual_information(stretched, 8), mutual_information(heat, 8))


def test_maps_without_heat_have_finite_losses_and_gradients() -> None:
    heat = torch.cat([torch.zeros(2, 1, 8, 8), torch.rand(2, 1, 8, 8)], 1).requires_grad_()
    loss = mutual_information(heat, 8) + displacement(heat, heat.flip(3))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, heat)[0].isfinite().all()


def test_the_centre_of_a_single_hot_position_is_that_position() -> None:
    heat = torch.zeros(1, 1, 8, 16)
    heat[0, 0, 2, 12] = 1e6
    torch.testing.assert_close(centres(heat)[0, 0], torch.tensor([2 / 8, 12 / 16]), atol=1e-4, rtol=0)
    torch.testing.assert_close(centres(torch.zeros(1, 1, 8, 8))[0, 0], torch.tensor([7 / 16, 7 / 16]))
    moved = heat.roll(3, 3).roll(2, 2)
    assert displacement(heat, moved).item() == pytest.approx((2 / 8) ** 2 + (3 / 16) ** 2, abs=1e-4)


def test_heatmaps_are_grad_cam() -> None:
    """Against the definition, position by position, on one expert."""
    model, x, y = system(), batch(4).x, batch(4).y
    opinions, heat = model.watched(model.maps(x), y)
    torch.testing.assert_close(opinions, model.bank(x), rtol=1e-4, atol=1e-5)
    assert heat.shape == (4, 4, 8, 8)
    assert (heat >= 0).all()
    net = model.bank[1]
    assert isinstance(net, ConvNet)
    maps = net.maps(x, model.blocks).detach().requires_grad_()
    for image in range(4):
        (gradient,) = torch.autograd.grad(net.answer(maps, model.blocks)[image, y[image]], maps)
        weights = gradient[image].mean((1, 2))
        expected = F.relu(sum(w * a for w, a in zip(weights, maps[image], strict=True)))
        torch.testing.assert_close(heat[image, 1], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", ["information", "displacement"])
def test_second_order_gradients_reach_what_comes_after_the_maps(loss: str) -> None:
    """The blocks behind the maps shape the heat through its weights alone, which are a gradient already."""
    model, x, y = system().double(), batch().x.double(), batch().y.repeat(2)
    moved = (x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)).clamp(0, 1)
    _, heat = model.watched(model.maps(torch.cat([x, moved])), y)
    value = mutual_information(heat, 8) if loss == "information" else displacement(*heat.chunk(2))
    for net in model.bank:
        assert isinstance(net, ConvNet)
        behind = [*net.blocks[model.blocks :].parameters(), net.head.weight]
        gradients = torch.autograd.grad(value, behind, retain_graph=True, allow_unused=True)
        assert sum(float(g.abs().sum()) for g in gradients if g is not None) > 0
        weight = net.head.weight
        with torch.no_grad():
            before, way = weight.clone(), torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(1))
        (slope,) = torch.autograd.grad(value, weight, retain_graph=True)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.copy_(before + sign * 1e-8 * way)  # further away lie kinks: bins, and maps without heat
            again = model.watched(model.maps(torch.cat([x, moved])), y)[1]
            ends.append(mutual_information(again, 8) if loss == "information" else displacement(*again.chunk(2)))
        with torch.no_grad():
            weight.copy_(before)
        assert (slope * way).sum().item() == pytest.approx(((ends[0] - ends[1]) / 2e-8).item(), rel=1e-3, abs=1e-7)


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


@pytest.mark.parametrize(("backbone", "side", "blocks", "maps"), [
    (ResNet(depth=18, width=4), 32, 6, (16, 8, 8)),
    (ResNet(depth=20, width=4), 32, 9, (16, 8, 8)),
    (ResNet(depth=10, width=4), 16, 2, (8, 8, 8)),
    (ResNet(depth=50, width=4), 64, 16, (128, 8, 8)),
    (WideResNet(depth=10, widen=1), 32, 5, (64, 8, 8)),
])  # fmt: skip
def test_heat_is_read_off_the_deepest_maps_that_are_large_enough(
    backbone: Any, side: int, blocks: int, maps: tuple[int, int, int]
) -> None:
    spec = FOUR.model_copy(update={"height": side, "width": side})
    net = backbone(spec)
    assert map_depth(net, spec) == blocks
    assert all(module.training for module in net.modules())
    assert not any(int(tensor) for name, tensor in net.named_buffers() if name.endswith("num_batches_tracked"))
    x = torch.rand(2, 3, side, side)
    found = net.eval().maps(x, blocks)
    assert found.shape[1:] == maps
    torch.testing.assert_close(net.answer(found, blocks), net(x))


def test_what_gives_no_heatmaps_is_refused_in_a_sentence() -> None:
    with pytest.raises(
        Refused, match="images of 8 x 7 give no heatmaps of 8 x 8, which method 'immunity' needs at least; give larger"
    ):
        tiny("immunity").model(EIGHT.model_copy(update={"height": 7}))
    with pytest.raises(Refused, match="feature maps, which a Linear does not show; use backbone 'resnet' or 'wide-resnet'"):
        map_depth(nn.Linear(2, 2), EIGHT)


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
