"""Parameters and multiply-adds are those that published nets have, and what a pass computes."""

import pytest
import torch
from torch import nn

from dwf.core.types import Spec
from dwf.models import GoogLeNet, ResNet, WideResNet
from dwf.models.cost import Cost, cost

TEN = Spec(classes=tuple("0123456789"), channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)


def test_a_small_net_is_counted_by_hand() -> None:
    """A 3x3 convolution of 3 to 4 channels on 32 x 32 pixels, and a linear layer of 4 to 10."""

    def backbone(spec: Spec) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(spec.channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
        )

    assert cost(backbone, TEN) == Cost(3 * 4 * 9 + 4 + 8 + 4 * 10 + 10, 3 * 4 * 9 * 32 * 32 + 4 * 10)


@pytest.mark.parametrize(("backbone", "millions"), [
    (ResNet(depth=18), 556), (ResNet(depth=20, width=16), 41), (ResNet(depth=50), 1298), (WideResNet(depth=28, widen=10), 5243),
], ids=["18", "20", "50", "28-10"])  # fmt: skip
def test_multiply_adds_are_the_published_ones(backbone: ResNet | WideResNet, millions: float) -> None:
    """As tables of CIFAR nets state them, within the rounding of those tables."""
    assert cost(backbone, TEN).multiply_adds / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("width", [16, 32])
def test_twice_the_width_is_four_times_the_work(width: int) -> None:
    for family in (ResNet, GoogLeNet):
        once, twice = (cost(family(width=many), TEN) for many in (width, 2 * width))
        assert twice.multiply_adds / once.multiply_adds == pytest.approx(4, rel=0.05)
        assert twice.parameters / once.parameters == pytest.approx(4, rel=0.05)


def test_nothing_is_computed_and_no_number_is_drawn() -> None:
    before = torch.get_rng_state()
    cost(ResNet(depth=10), TEN)
    assert torch.equal(torch.get_rng_state(), before)


def test_googlenet_has_the_papers_channels_and_ends_in_8_by_8() -> None:
    """Table 1 of the paper: block 5b ends in 1024 channels, and its parameter column sums to what the convolutions hold here."""
    with torch.device("meta"):
        net = GoogLeNet()(TEN).eval()
        sides = []
        for block in net.blocks:
            block.register_forward_hook(lambda _, __, out: sides.append(tuple(out.shape[1:])))
        net(torch.empty(2, 3, 32, 32))
    assert sides[-1] == (1024, 8, 8)
    assert [side[0] for side in sides] == [64, 192, 256, 480, 480, 512, 512, 512, 528, 832, 832, 832, 1024]
    stated = 1024 * (159 + 380 + 364 + 437 + 463 + 580 + 840 + 1072 + 1388)  # blocks 3a to 5b, in K
    blocks = sum(p.numel() for block in net.blocks[2:] for p in block.parameters() if p.dim() == 4)
    assert blocks == pytest.approx(stated, rel=0.01)
