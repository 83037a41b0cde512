"""Immunity's heatmaps: what they are, where they are read, and the two losses on them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from switched_system import system
from tiny_methods import EIGHT, FOUR, batch, tiny
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.methods.immunity import centres, displacement, map_depth, mutual_information
from dwf.models import ResNet, WideResNet
from dwf.models.resnet import ConvNet


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
    with pytest.raises(
        Refused, match="feature maps, which a Linear does not show; use backbone 'resnet', 'wide-resnet' or 'googlenet'"
    ):
        map_depth(nn.Linear(2, 2), EIGHT)
