"""Bounds are never below what is found by looking, and exact where that is possible."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.types import Spec
from dwf.models import BACKBONES, Gate, Linear, Lipschitz, ResNet
from dwf.models.bounds import Norm, differences, lipschitz
from dwf.models.layers import ConvNorm
from dwf.models.lipschitz import BoundedConv, MaxMin

SPEC = Spec(classes=tuple("abcde"), channels=2, height=8, width=8, mean=(0.5, 0.4), std=(0.2, 0.3))
SMALL = {"lipschitz": {"width": 4}, "resnet": {"depth": 10, "width": 2}, "wide-resnet": {"depth": 10, "widen": 1}}
"""Small settings of the members that have any."""
NETS = {
    **{kind: lambda kind=kind: BACKBONES[kind].model_validate(SMALL[kind])(SPEC) for kind in SMALL},
    "linear": lambda: Linear()(SPEC),
    "bounded linear": lambda: Lipschitz(stages=0, scale=3)(SPEC),
    "bottlenecks": lambda: ResNet(depth=50, width=2)(SPEC),
}
both_norms = pytest.mark.parametrize("norm", ["l2", "linf"])
every_net = pytest.mark.parametrize("build", NETS.values(), ids=NETS.keys())


def pixels(count: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def used(net: nn.Module) -> nn.Module:
    """Batch-norm with statistics, and weights away from where they began."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        for seed in range(3):
            net.train()(pixels(seed=seed))
    return net.eval()


def matrix(layer: nn.Module, channels: int, side: int) -> Tensor:
    """The matrix of a layer, its bias left out, on images (channels, side, side)."""
    basis = torch.eye(channels * side * side, dtype=torch.float64).view(-1, channels, side, side)
    double = copy.deepcopy(layer).double().eval()
    with torch.no_grad():
        return (double(basis) - double(torch.zeros_like(basis[:1]))).flatten(1).T


@every_net
@both_norms
def test_no_gradient_is_steeper_than_the_bound(build, norm: Norm) -> None:
    net, x = used(build()), pixels().requires_grad_()
    between = differences(net, norm, x[0].numel())
    logits = net(x)
    assert between.shape == (5, 5)
    for c in range(5):
        for k in range(c):
            (gradient,) = torch.autograd.grad((logits[:, c] - logits[:, k]).sum(), x, retain_graph=True)
            steepest = gradient.flatten(1).norm(p=2 if norm == "l2" else 1, dim=1).max()
            assert 0 < steepest <= between[c, k] * (1 + 1e-5)
            assert between[c, k] == between[k, c]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_bound_of_a_linear_net_is_exact(norm: Norm) -> None:
    net, x = used(Linear()(SPEC)), pixels(1).requires_grad_()
    (gradient,) = torch.autograd.grad((net(x)[:, 0] - net(x)[:, 1]).sum(), x)
    assert differences(net, norm, x[0].numel())[0, 1].item() == pytest.approx(
        gradient.norm(p=2 if norm == "l2" else 1).item(), rel=1e-5
    )


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 3), (4, 4)])
def test_a_bounded_convolution_has_norm_1_at_most_and_reaches_it(kernel: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    layer = BoundedConv(inputs, outputs, kernel=kernel)
    assert 0.9 < torch.linalg.matrix_norm(matrix(layer, inputs, 5), 2) <= 1 + 1e-9
    with torch.no_grad():
        layer.conv.weight.copy_(torch.randn(layer.conv.weight.shape))
    assert torch.linalg.matrix_norm(matrix(layer, inputs, 5), 2) <= 1 + 1e-9
    inner = matrix(layer, inputs, 5).abs().sum(1).max()
    assert inner <= lipschitz(layer, "linf") * (1 + 1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@both_norms
def test_convolutions_and_batch_norm_are_bounded_by_their_sums(stride: int, norm: Norm) -> None:
    torch.manual_seed(0)
    pair = used(nn.Sequential(ConvNorm(2, 4, stride=stride)))[0]
    order = 2 if norm == "l2" else torch.inf
    for layer, channels in ((pair, 2), (pair.conv, 2), (pair.norm, 4)):
        assert torch.linalg.matrix_norm(matrix(layer, channels, 8), order) <= lipschitz(layer, norm) * (1 + 1e-5)


def test_the_logits_of_a_bounded_net_are_as_steep_as_its_scale_at_most() -> None:
    for scale in (0.5, 20.0):
        net = used(Lipschitz(width=4, stages=1, scale=scale)(SPEC))
        jacobian = torch.autograd.functional.jacobian(net, pixels(1))
        assert torch.linalg.matrix_norm(jacobian.reshape(5, -1), 2) <= scale * (1 + 1e-5)


def test_maxmin_sorts_pairs_and_loses_nothing() -> None:
    x = torch.randn(3, 6, 2, 2)
    y = MaxMin()(x)
    assert y.flatten(1).sort(1).values.equal(x.flatten(1).sort(1).values)
    assert (y[:, :3] >= y[:, 3:]).all()


def test_images_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(Refused, match="'stages' is 4, and images of 8x8 pixels cannot be halved so often; use fewer"):
        Lipschitz(stages=4)(SPEC)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(Refused, match="no Lipschitz bound of a GateNet is known; certify nets of the kinds resnet"):
        differences(Gate()(SPEC, 2), "l2", 128)
    with pytest.raises(Refused, match="no Lipschitz bound of a Dropout is known"):
        lipschitz(nn.Sequential(nn.ReLU(), nn.Dropout()), "l2")
