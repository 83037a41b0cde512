"""The fast copy that attacks ascend is the original, for less."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dwf.core.types import Spec
from dwf.models import BACKBONES, AttackCopy, ExpertBank, Gate, Mixture, ResNet, WideResNet
from dwf.models.folding import folded
from dwf.models.inference import attack_precision
from dwf.models.layers import ConvNorm

SPEC = Spec(classes=tuple("abcd"), channels=3, height=16, width=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
SMALL = {
    "googlenet": {"width": 8},
    "lipschitz": {"width": 8},
    "resnet": {"depth": 10, "width": 8},
    "timm": {"name": "test_resnet"},
    "wide-resnet": {"depth": 10, "widen": 1},
}


def pixels(count: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def trained(model: nn.Module) -> nn.Module:
    """Batch-norm statistics, scales and shifts that are far from the initial ones; some of the scales are negative."""
    source = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.randn(module.weight.shape, generator=source) + 0.5
            module.bias.data = torch.randn(module.bias.shape, generator=source)
    model.train()
    with torch.no_grad():
        for seed in range(3):
            model(pixels(16, seed))
    return model.eval()


def mixture() -> nn.Module:
    bank = ExpertBank([ResNet(depth=10, width=8)(SPEC), WideResNet(depth=10, widen=1)(SPEC)])
    return Mixture(bank, Gate(hidden=16)(SPEC, 2))


BUILDERS = {
    **{
        kind: lambda member=member, kind=kind: member.model_validate(SMALL.get(kind, {}))(SPEC)
        for kind, member in BACKBONES.items()
    },
    "resnet-50": lambda: ResNet(depth=50, width=4)(SPEC),
    "mixture": mixture,
    "pair": lambda: nn.Sequential(ConvNorm(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "a pair alone": lambda: ConvNorm(3, 4, stride=2),
}
WHOLE = [name for name in BUILDERS if "pair" not in name]
"""Models that cast their normalised images to the precision of their weights."""
OURS = [name for name in BUILDERS if name != "timm"]
"""Models whose pairs are a ConvNorm."""
every_model = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


@every_model
def test_equals_the_original_in_eval_mode(build: Callable[[], nn.Module]) -> None:
    model = trained(build())
    fast = AttackCopy(model)
    torch.testing.assert_close(fast(pixels()), model(pixels()), rtol=1e-5, atol=1e-5)


@every_model
def test_gives_the_gradient_of_the_original(build: Callable[[], nn.Module]) -> None:
    """In fp64, where folding changes nothing that a sign could see."""
    model = trained(build()).double()
    x = pixels().double().requires_grad_()
    fast = AttackCopy(model, torch.float64)
    for module in fast.modules():
        module.double()
    fast.forward = fast.inner.forward  # its own result is fp32
    ours, theirs = (torch.autograd.grad(net(x).square().sum(), x)[0] for net in (fast, model))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@every_model
def test_follows_the_original_after_a_refresh(build: Callable[[], nn.Module]) -> None:
    model = trained(build())
    fast = AttackCopy(model)
    before = fast(pixels())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1).add_(0.01)
        model.train()(pixels(16, 9))
        model.eval()
    assert torch.equal(fast(pixels()), before)  # not before it is asked to
    assert not torch.allclose(model(pixels()), before, atol=1e-3)
    assert fast.refresh() is fast
    torch.testing.assert_close(fast(pixels()), model(pixels()), rtol=1e-4, atol=1e-5)


@every_model
@pytest.mark.parametrize("batch_statistics", [False, True])
def test_shares_nothing_with_the_original_and_asks_for_no_parameter_gradient(
    build: Callable[[], nn.Module], batch_statistics: bool
) -> None:
    model = trained(build())
    state, wanted = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    fast = AttackCopy(model, batch_statistics=batch_statistics)
    ours = {t.untyped_storage().data_ptr() for t in [*fast.parameters(), *fast.buffers()] if t.numel()}
    theirs = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()] if t.numel()}
    assert ours.isdisjoint(theirs)
    assert not any(p.requires_grad for p in fast.parameters())
    assert not any(module.training for module in fast.modules())
    assert set(fast.modules()).isdisjoint(model.modules())
    fast.refresh()(pixels())
    assert [p.requires_grad for p in model.parameters()] == wanted == [True] * len(wanted)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model(pixels()).requires_grad


@pytest.mark.parametrize("build", [BUILDERS[name] for name in OURS], ids=OURS)
def test_folds_every_batch_norm_behind_a_convolution(build: Callable[[], nn.Module]) -> None:
    model = trained(build())
    fast = AttackCopy(model)
    pairs = sum(isinstance(module, ConvNorm) for module in model.modules())
    norms = [sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) for net in (model, fast)]
    assert pairs > 0 or norms[0] == 0
    assert norms[1] == norms[0] - pairs
    assert not any(isinstance(module, ConvNorm) for module in fast.modules())


@pytest.mark.parametrize("build", [BUILDERS[name] for name in WHOLE], ids=WHOLE)
def test_bf16_comes_close_and_answers_in_fp32(build: Callable[[], nn.Module]) -> None:
    model = trained(build())
    fast = AttackCopy(model, torch.bfloat16)
    expected, logits = model(pixels()), fast(pixels())
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().mean() < 0.03 * expected.abs().mean() + 0.01
    assert {m.weight.dtype for m in fast.modules() if isinstance(m, nn.Conv2d | nn.Linear)} == {torch.bfloat16}
    assert {t.dtype for name, t in fast.named_buffers() if t.is_floating_point()} <= {torch.float32}


@every_model
def test_batch_statistics_are_those_of_training_mode(build: Callable[[], nn.Module]) -> None:
    model = trained(build())
    fast = AttackCopy(model, batch_statistics=True)
    state = copy.deepcopy(model.state_dict())
    logits = fast(pixels(8, 5))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    normed = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert normed != torch.allclose(logits, model(pixels(8, 5)), atol=1e-3)
    reference = copy.deepcopy(model).train()
    torch.testing.assert_close(logits, reference(pixels(8, 5)), rtol=1e-3, atol=1e-4)  # sums in another memory order
    torch.testing.assert_close(fast(pixels(8, 5)), logits)  # and it kept none of its own
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    reference = copy.deepcopy(model).train()
    torch.testing.assert_close(fast.refresh()(pixels(8, 5)), reference(pixels(8, 5)), rtol=1e-3, atol=1e-4)


def test_a_mixtures_routing_is_that_of_the_inner_copy() -> None:
    model = trained(mixture())
    fast = AttackCopy(model)
    for ours, theirs in zip(fast.inner.route(pixels()), model.route(pixels()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    softer, original = fast.inner.surrogate(pixels(), 3.0).logits, model.surrogate(pixels(), 3.0).logits
    torch.testing.assert_close(softer, original, rtol=1e-5, atol=1e-5)


def test_the_original_is_no_part_of_its_copy() -> None:
    """Its weights must not turn up twice in a checkpoint or move with `to`."""
    model = trained(ResNet(depth=10, width=8)(SPEC))
    fast = AttackCopy(model)
    assert all(name.startswith("inner.") for name in fast.state_dict())
    fast.to(torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_folding_is_exact_in_double_precision() -> None:
    pair = trained(ConvNorm(3, 5, stride=2)).double()
    weight, bias = folded(pair.conv, pair.norm)
    x = pixels().double()
    torch.testing.assert_close(nn.functional.conv2d(x, weight, bias, stride=2, padding=1), pair(x), rtol=0, atol=1e-12)


def test_attack_precision_is_one_that_the_device_multiplies() -> None:
    precision = attack_precision(torch.device("cpu"))
    assert precision in (torch.bfloat16, torch.float32)
    assert attack_precision(torch.device("mps")) == torch.float32


@pytest.mark.gpu
def test_equals_the_original_on_a_gpu() -> None:
    device = torch.device("cuda")
    model = trained(mixture()).to(device)
    x = pixels().to(device)
    torch.testing.assert_close(AttackCopy(model)(x), model(x), rtol=1e-2, atol=1e-2)
    fast = AttackCopy(model, attack_precision(device))
    assert (fast(x) - model(x)).abs().mean() < 0.05 * model(x).abs().mean() + 0.02
