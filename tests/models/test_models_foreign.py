"""A module from elsewhere is judged as it is, or refused in one sentence."""

import copy
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from foreign_nets import SPEC, Around, pixels, trained
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.types import Routed
from dwf.models import AttackCopy, ExpertBank, Gate, Mixture, ResNet
from dwf.models.foreign import adopt
from dwf.models.inference import faithful


def refused(module: nn.Module, classes: int = 4, probe: Tensor | None = None) -> str:
    with pytest.raises(Refused) as caught:
        adopt(module, pixels() if probe is None else probe, classes, name="their.net:make")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert "their.net:make" in sentence
    return sentence


def test_is_the_module_on_standardised_images() -> None:
    module = trained()
    x, mean, std = pixels(), torch.tensor(SPEC.mean).view(1, 3, 1, 1), torch.tensor(SPEC.std).view(1, 3, 1, 1)
    reference = copy.deepcopy(module).eval()
    bare, standardised = adopt(module, x, 4, name="net"), adopt(module, x, 4, name="net", spec=SPEC)
    torch.testing.assert_close(bare(x), reference(x.contiguous()))
    torch.testing.assert_close(standardised(x), reference(((x - mean) / std).contiguous()))
    assert {name for name, _ in standardised.named_buffers()} >= {"normalize.mean", "normalize.std"}
    assert not isinstance(bare, Routed)


def test_leaves_the_module_in_hand_as_it_is() -> None:
    module = trained().bfloat16().train()
    module.first.eval()
    before, modes = copy.deepcopy(module.state_dict()), [m.training for m in module.modules()]
    model = adopt(module, pixels(), 4, name="net")
    AttackCopy(model, torch.bfloat16)(pixels())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert [m.training for m in module.modules()] == modes
    assert all(p.requires_grad for p in module.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def _moved(net: nn.Module, x: Tensor) -> Tensor:
    return net.to("meta")(x.to("meta"))


def _moved_and_raised(net: nn.Module, x: Tensor) -> Tensor:
    net.to("meta")
    raise ValueError("lost")


def _not_in_eval(net: nn.Module, x: Tensor) -> Tensor:
    if not net.training:
        raise NotImplementedError("only\nfor training")
    return net(x)


@torch.no_grad()
def _without_gradient(net: nn.Module, x: Tensor) -> Tensor:
    return net(x)


BAD = {
    "NaN": (lambda net, x: net(x) / 0 * 0, "returned NaN or infinite logits for ordinary images; check its weights, its mean"),
    "infinite": (lambda net, x: net(x).exp() * torch.inf, "returned NaN or infinite logits"),
    "classes": (lambda net, x: net(x)[:, :3], r"returned \(16, 3\) for 16 images of 4 classes, not \(16, 4\); give it data of its"),
    "labels": (lambda net, x: net(x).argmax(1), r"returned \(16,\) for 16 images of 4 classes"),
    "a dict": (lambda net, x: {"logits": net(x)}, "returned a dict, not a tensor of logits"),
    "moves itself": (_moved, "keeps 'net.one.weight' on meta, and cpu was asked for; remove the .to"),
    "moves and raises": (_moved_and_raised, "keeps 'net.one.weight' on meta, and cpu was asked for"),
    "moves its output": (lambda net, x: net(x).to("meta"), "puts its logits on meta, and cpu was asked for; remove the .to"),
    "training only": (_not_in_eval, "runs in training mode only .NotImplementedError: only for training.; a model is judged"),
    "no gradient": (_without_gradient, "no gradient of their.net:make reaches the image .RuntimeError: .*; remove torch.no_grad"),
    "batch statistics": (
        lambda net, x: net(x) - net(x).mean(0),
        "in eval mode changes an image's logits by [0-9.]+ with the images beside it in the batch, as batch statistics do",
    ),
    "raises": (lambda net, x: net(x.missing), r"fails on images of size \(3, 8, 8\) on cpu .AttributeError: .*missing"),
}


@pytest.mark.parametrize(("act", "words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_judged(act: Callable[[nn.Module, Tensor], object], words: str) -> None:
    assert re.search(words, refused(Around(act)))


@pytest.mark.parametrize("shape", [(16, 1, 8, 8), (16, 3, 12, 12)], ids=["channels", "size"])
def test_images_of_another_kind(shape: tuple[int, ...]) -> None:
    sentence = refused(trained(), probe=torch.rand(shape))
    assert f"fails on images of size {shape[1:]} on cpu (RuntimeError: " in sentence
    assert "give data of its own size and channels" in sentence


def test_batch_norm_that_has_no_running_statistics() -> None:
    module = trained()
    module.second = nn.BatchNorm2d(8, track_running_stats=False)
    assert "in eval mode changes an image's logits" in refused(module)


def test_what_cannot_be_copied() -> None:
    module = trained()
    module.lock = (i for i in range(3))
    assert "cannot be copied to cpu (TypeError: " in refused(module)


def test_a_random_module_is_adopted_for_an_alarm_to_judge() -> None:
    model = adopt(Around(lambda net, x: net(x + 0.1 * torch.randn_like(x))), pixels(), 4, name="net")
    assert not torch.equal(model(pixels()), model(pixels()))


def test_images_survive_a_module_that_writes_into_them() -> None:
    x = pixels(16).contiguous()
    before = x.clone()
    model = adopt(Around(lambda net, x: net(x.sub_(0.5).div_(0.2))), x, 4, name="net")
    model(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(AttackCopy(model)(x), model(x), rtol=1e-4, atol=1e-4)


def test_probabilities_are_attacked_through_their_logarithm() -> None:
    logits = adopt(Around(lambda net, x: 0.5 * net(x)), pixels(), 4, name="net")
    model = adopt(Around(lambda net, x: (0.5 * net(x)).softmax(1)), pixels(), 4, name="net")
    assert (model.probabilities, logits.probabilities) == (True, False)
    expected = logits(pixels())
    torch.testing.assert_close(model(pixels()), expected.log_softmax(1), rtol=1e-4, atol=1e-4)
    gradients = []
    for net in (logits, model, lambda x: model(x).exp()):
        x = pixels().requires_grad_()
        F.cross_entropy(net(x), expected.argmax(1), reduction="sum").backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)
    assert gradients[2].abs().mean() < 0.7 * gradients[0].abs().mean()  # what it would be without the logarithm
    assert faithful(model, torch.bfloat16).precision == torch.float32


def test_a_probability_of_zero_is_a_finite_logit() -> None:
    model = adopt(Around(lambda net, x: (1e4 * net(x)).softmax(1)), pixels(), 4, name="net")
    assert (torch.softmax(1e4 * trained().eval()(pixels().contiguous()), 1) == 0).any()
    assert model(pixels()).isfinite().all()


def mixture() -> Mixture:
    return Mixture(ExpertBank([ResNet(depth=10, width=4)(SPEC) for _ in range(2)]), Gate(hidden=8)(SPEC, 2))


def test_a_mixture_stays_routed() -> None:
    module = mixture().eval()
    model = adopt(module, pixels(), 4, name="net")
    for net in (model, AttackCopy(model).inner):
        assert isinstance(net, Routed)
        for ours, theirs in zip(net.route(pixels()), module.route(pixels()), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        softer = zip(net.surrogate(pixels(), 3.0), module.surrogate(pixels(), 3.0), strict=True)
        assert all(torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4) for ours, theirs in softer)
        torch.testing.assert_close(net.expert(pixels(), 1), module.expert(pixels(), 1), rtol=1e-4, atol=1e-4)
    low = AttackCopy(model, torch.bfloat16).inner
    assert isinstance(low, Routed)
    assert {part.dtype for part in low.route(pixels())} == {torch.float32}


def test_a_mixture_of_probabilities_is_refused() -> None:
    class Soft(Mixture):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(1)

    whole = mixture()
    assert "has a gate and returns probabilities" in refused(Soft(whole.bank, whole.gate))
