"""Every member of BACKBONES builds for any images and classes; a new one is tested by being listed."""

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from dwf.core.settings import Settings
from dwf.core.types import Spec
from dwf.models import BACKBONES, Backbone, Normalize, ResNet, WideResNet

TEN = Spec(
    classes=tuple("abcdefghij"), channels=3, height=32, width=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)
)  # fmt: skip
FOUR = Spec(classes=tuple("abcd"), channels=1, height=16, width=16, mean=(0.3,), std=(0.35,))
SMALL = {
    "googlenet": {"width": 8},
    "lipschitz": {"width": 8},
    "resnet": {"depth": 10, "width": 8},
    "timm": {"name": "test_resnet", "arguments": {"zero_init_last": False}},
    "wide-resnet": {"depth": 10, "widen": 1},
}
"""Small settings of the members that have any; another member is built as it is by default."""


def small(kind: str) -> Settings:
    return BACKBONES[kind].model_validate(SMALL.get(kind, {}))


def pixels(spec: Spec, count: int = 3) -> torch.Tensor:
    return torch.rand(count, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", [TEN, FOUR], ids=["ten", "four"])
@pytest.mark.parametrize("kind", BACKBONES)
def test_builds_and_predicts(kind: str, spec: Spec) -> None:
    model, x = small(kind)(spec), pixels(spec)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # one pass gives it the statistics of these images: a deep chain without them forgets its input
    model(x)
    logits = model.eval()(x)
    assert logits.shape == (3, len(spec.classes))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert not torch.allclose(logits, model(x + 0.05 * pixels(spec).flip(3)), atol=1e-4)
    assert (logits.sum(1) - 1).abs().max() > 1e-3  # logits, not probabilities


@pytest.mark.parametrize("kind", BACKBONES)
def test_every_parameter_learns(kind: str) -> None:
    model = small(kind)(FOUR)
    model(pixels(FOUR)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_sample_is_independent_of_its_batch_in_eval_mode(kind: str) -> None:
    model, x = small(kind)(FOUR).eval(), pixels(FOUR)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", BACKBONES)
def test_two_builds_share_nothing(kind: str) -> None:
    first, second = small(kind)(FOUR), small(kind)(FOUR)
    assert {p.data_ptr() for p in first.parameters()}.isdisjoint(p.data_ptr() for p in second.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("backbone", "millions"),
    [
        (ResNet(depth=18), 11.173962),
        (ResNet(depth=34), 21.282122),
        (ResNet(depth=50), 23.520842),
        (ResNet(depth=20, width=16), 0.272474),
        (WideResNet(depth=28, widen=10), 36.479194),
        (WideResNet(depth=34, widen=10), 46.160474),
    ],
    ids=lambda value: value.__class__.__name__ + str(value.depth) if isinstance(value, Settings) else str(value),
)
def test_has_as_many_parameters_as_published(backbone: Settings, millions: float) -> None:
    """Counts of the common CIFAR-10 implementations; ResNet-20 with projected shortcuts."""
    with torch.device("meta"):
        model = backbone(TEN)
    assert sum(parameter.numel() for parameter in model.parameters()) == round(millions * 1e6)


@pytest.mark.parametrize("depth", [10, 18, 20, 34, 50])
def test_resnets_have_as_many_layers_as_their_name_says(depth: int) -> None:
    """Convolutions on the main path and the linear head."""
    with torch.device("meta"):
        model = ResNet(depth=depth, width=4)(TEN)
    shortcuts = sum(name.endswith("shortcut.conv") for name, _ in model.named_modules())
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules())
    assert layers - shortcuts == depth


@pytest.mark.parametrize("depth", [10, 16, 28])
def test_wide_resnets_have_as_many_layers_as_their_name_says(depth: int) -> None:
    """The name counts the three projections of the shortcuts too (6 n + 4)."""
    with torch.device("meta"):
        model = WideResNet(depth=depth, widen=2)(TEN)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) - 1 == depth


@pytest.mark.parametrize(
    ("backbone", "side"),
    [
        (ResNet(depth=18, width=2), 4),
        (ResNet(depth=50, width=2), 4),
        (ResNet(depth=20, width=2), 8),
        (WideResNet(depth=10, widen=1), 8),
    ],
    ids=["18", "50", "20", "wide"],
)
def test_every_stage_but_the_first_halves_the_image(backbone: Settings, side: int) -> None:
    """The stem keeps all 32 x 32 pixels: no stride and no pooling."""
    sides = []
    model = backbone(TEN)
    for module in (model.stem, model.blocks):
        module.register_forward_hook(lambda _, __, out: sides.append(out.shape[2:]))
    model(pixels(TEN))
    assert sides == [(32, 32), (side, side)]


def test_normalisation_is_the_first_layer() -> None:
    """Pixels in, standardised values out; a model with other constants differs by exactly that."""
    x = pixels(TEN)
    expected = (x - torch.tensor(TEN.mean).view(3, 1, 1)) / torch.tensor(TEN.std).view(3, 1, 1)
    torch.testing.assert_close(Normalize(TEN)(x), expected)
    for kind in BACKBONES:
        assert [type(module) for module in small(kind)(TEN).modules()].count(Normalize) == 1
    plain = TEN.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3})
    model, bare = ResNet(depth=10, width=4)(TEN).eval(), ResNet(depth=10, width=4)(plain).eval()
    bare.load_state_dict({**model.state_dict(), "normalize.mean": bare.normalize.mean, "normalize.std": bare.normalize.std})
    torch.testing.assert_close(model(x), bare(expected))


def test_the_constants_travel_with_the_weights() -> None:
    state = ResNet(depth=10, width=4)(FOUR).state_dict()
    assert state["normalize.mean"].flatten().tolist() == pytest.approx([0.3])
    assert state["normalize.std"].flatten().tolist() == pytest.approx([0.35])


@pytest.mark.parametrize("kind", BACKBONES)
def test_settings_survive_json_and_select_their_class(kind: str) -> None:
    backbone = small(kind)
    assert backbone.kind == kind
    assert TypeAdapter(Backbone).validate_json(backbone.model_dump_json()) == backbone


def test_the_union_holds_every_member() -> None:
    assert set(get_args(get_args(Backbone)[0])) == set(BACKBONES.values())


def test_a_depth_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="Input should be 10, 18, 20, 34 or 50"):
        ResNet(depth=19)
    with pytest.raises(ValidationError, match="Input should be 10, 16, 22, 28, 34 or 40"):
        WideResNet(depth=20)
