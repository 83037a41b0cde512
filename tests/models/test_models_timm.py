"""Nets of timm by name: the paper's end in a map that 32 pixels deserve, learn, and say in a sentence what is wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.types import Spec
from dwf.models import AttackCopy, ResNet, Timm
from dwf.models.bank import Featured
from dwf.models.timm import TimmNet

timm = pytest.importorskip("timm", reason="the extra timm is not installed")


def spec(side: int = 32, classes: int = 4, channels: int = 3) -> Spec:
    names = tuple(f"class {number}" for number in range(classes))
    return Spec(classes=names, channels=channels, height=side, width=side, mean=(0.4,) * channels, std=(0.2,) * channels)


def pixels(side: int = 32, count: int = 2) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def on_meta(name: str, side: int = 32, **settings: Any) -> TimmNet:
    with torch.device("meta"):
        net = Timm(name=name, **settings)(spec(side))
    assert isinstance(net, TimmNet)
    return net.eval()


def last_map(net: TimmNet, side: int = 32) -> tuple[int, ...]:
    maps = net.net.forward_features(torch.empty(2, 3, side, side, device="meta"))
    return tuple(maps.shape[2:])


@pytest.mark.parametrize(("name", "side"), [
    ("vgg19_bn", 1), ("resnet34", 4), ("resnet50", 4), ("densenet121", 4), ("densenet169", 4), ("inception_v3", 6),
    ("legacy_xception", 4), ("mobilenetv2_100", 4), ("convnext_atto", 4), ("efficientnet_b0", 4), ("resnet26d", 4),
])  # fmt: skip
def test_32_pixels_end_in_a_map_and_not_in_a_point(name: str, side: int) -> None:
    """VGG begins at full size and pools five times: it has no stem that halves."""
    assert last_map(on_meta(name)) == (side, side)


def test_the_image_is_read_at_full_size_by_3x3_convolutions() -> None:
    for name in ("resnet34", "densenet121", "convnext_atto", "legacy_xception", "inception_v3"):
        net = on_meta(name).net
        first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
        assert (first.kernel_size, first.stride, first.padding) == ((3, 3), (1, 1), (1, 1)), name


@pytest.mark.parametrize("depth", [34, 50])
def test_a_resnet_of_timm_is_ours(depth: int) -> None:
    """The same parameters, layer for layer, as the CIFAR ResNet of that depth."""
    theirs = on_meta(f"resnet{depth}").net
    with torch.device("meta"):
        ours = ResNet(depth=depth)(spec())
    counts = [sorted(tuple(p.shape) for p in net.parameters()) for net in (theirs, ours)]
    assert counts[0] == counts[1]


def test_vgg_has_one_linear_head() -> None:
    net = on_meta("vgg19_bn")
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 16 + 1
    assert (layers[-1].in_features, layers[-1].out_features) == (512, 4)
    assert on_meta("vgg19_bn", arguments={"drop_rate": 0.3}).net.head.drop.p == 0.3
    with torch.device("meta"):
        original = timm.create_model("vgg19_bn", num_classes=4)
    kept = on_meta("vgg19_bn", stem="original")
    assert [p.shape for p in kept.parameters()] == [p.shape for p in original.parameters()]


@pytest.mark.parametrize(("side", "patch"), [(32, 4), (64, 8)])
def test_a_transformer_cuts_every_image_into_8_by_8_patches(side: int, patch: int) -> None:
    net = on_meta("vit_small_patch16_224", side)
    assert net.net.patch_embed.patch_size == (patch, patch)
    assert net.net.patch_embed.num_patches == 64
    chosen = on_meta("vit_small_patch16_224", side, arguments={"patch_size": 2 * patch})
    assert chosen.net.patch_embed.num_patches == 16


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"])
def test_small_nets_learn_in_bf16_and_in_fp32(name: str) -> None:
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        net = Timm(name=name)(spec(16)).to(memory_format=torch.channels_last)
        x, y = pixels(16, 8).contiguous(memory_format=torch.channels_last), torch.arange(8) % 4
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        losses = []
        for _ in range(15):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
                loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_the_classifier_reads_the_features(name: str) -> None:
    net = Timm(name=name)(spec()).eval()
    assert isinstance(net, TimmNet)
    features = net.features(pixels())
    assert isinstance(net, Featured)
    assert features.shape == (2, net.head.in_features)
    torch.testing.assert_close(net.head(features), net(pixels()))
    copy = AttackCopy(net, torch.bfloat16).inner
    assert isinstance(copy, Featured)
    torch.testing.assert_close(copy.head(copy.features(pixels())).float(), net(pixels()), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", ["resnet10t", "vgg11_bn", "densenet121", "mobilenetv2_050", "legacy_xception", "inception_v3"])
def test_every_batch_norm_right_behind_a_convolution_is_folded(name: str) -> None:
    """DenseNets and Xception normalise before the next convolution too: those norms stay."""
    net = Timm(name=name)(spec()).eval()
    copy = AttackCopy(net)
    counts = [sum(isinstance(module, nn.BatchNorm2d) for module in one.modules()) for one in (net, copy)]
    stay = {"densenet121": 121 - 59}.get(name, 0)
    assert counts[1] == stay < counts[0]
    torch.testing.assert_close(copy(pixels()), net(pixels()), rtol=1e-3, atol=1e-3)


def test_a_net_that_cannot_be_traced_is_attacked_unfolded() -> None:
    net = Timm(name="vgg11_bn", stem="original", arguments={"mlp_ratio": 0.01})(spec()).eval()
    copy = AttackCopy(net)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in copy.modules()) == 8
    torch.testing.assert_close(copy(pixels()), net(pixels()))


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_an_attack_copy_in_bf16_answers_in_fp32(name: str) -> None:
    net = Timm(name=name)(spec()).eval()
    copy = AttackCopy(net, torch.bfloat16)
    logits = copy(pixels().requires_grad_())
    assert logits.dtype == torch.float32
    assert (logits - net(pixels())).abs().max() < 0.05 * net(pixels()).abs().max() + 0.02
    assert not torch.is_autocast_enabled("cpu")


def test_dropout_is_off_in_eval_mode_and_in_the_attack_copy() -> None:
    net = Timm(name="test_resnet", arguments={"drop_rate": 0.5, "drop_path_rate": 0.5})(spec()).train()
    assert not torch.equal(net(pixels()), net(pixels()))
    copy = AttackCopy(net)
    assert torch.equal(copy(pixels()), copy(pixels()))
    assert net.training


def test_weights_of_the_maker_stay_where_the_stem_leaves_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = timm.create_model, []

    def fetched(name: str, *, pretrained: bool = False, **shape: Any) -> nn.Module:
        asked.append(pretrained)
        net: nn.Module = real(name, **shape)
        if pretrained:
            for parameter in net.parameters():
                nn.init.constant_(parameter, 0.5)
        return net

    monkeypatch.setattr(timm, "create_model", fetched)
    net = Timm(name="resnet18", pretrained=True)(spec())
    assert asked.count(True) == 1
    begun = {name for name, parameter in net.named_parameters() if not (parameter == 0.5).all()}
    assert begun == {"net.conv1.weight"}


def test_a_net_with_two_classifiers_tells_no_features() -> None:
    assert not isinstance(on_meta("deit_tiny_distilled_patch16_224"), Featured)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(Refused) as refusal:
        Timm(name="resnet10t")(spec())
    assert str(refusal.value) == "'resnet10t' needs timm, which is not installed; install it with: pip install timm torchvision"


def test_timm_is_not_imported_before_a_net_is_built() -> None:
    code = "import sys, dwf.models; sys.exit('timm' in sys.modules or 'torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("settings", "side", "words"), [
    ({"name": "resnet19"}, 32, "timm has no model 'resnet19'; did you mean 'resnet"),
    ({"name": "inception_v3", "stem": "original"}, 32, "inception_v3 with stem 'original' cannot take images of 32 x 32 pixels ("),
    ({"name": "vgg19_bn"}, 16, "vgg19_bn with stem 'small' cannot take images of 16 x 16 pixels ("),
    ({"name": "test_resnet", "arguments": {"depth": 3}}, 32, "'test_resnet' could not be made (TypeError: "),
    ({"name": "test_vit", "arguments": {"patch_size": 5}}, 32, "cannot take"),
])  # fmt: skip
def test_what_cannot_be_built_is_refused_in_a_sentence(settings: dict[str, Any], side: int, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        Timm(**settings)(spec(side))
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_follows_from_the_data_is_no_argument() -> None:
    with pytest.raises(Refused) as refusal:
        Timm.read({"name": "resnet18", "arguments": {"num_classes": 7}})
    assert "'arguments.num_classes' follows from 'name', from the data or from 'pretrained'; leave it out" in str(refusal.value)
