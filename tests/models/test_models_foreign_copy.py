"""The attack copy of a module from elsewhere answers like it: batch-norm folded and in bf16, where the module bears it."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from foreign_nets import SPEC, Around, Net, pixels, trained
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.types import Spec
from dwf.models import AttackCopy
from dwf.models.folding import fold_batch_norms
from dwf.models.foreign import Foreign, adopt
from dwf.models.inference import faithful


def test_batch_norm_is_folded_where_it_alone_reads_a_convolution() -> None:
    module = trained().eval()
    folded = fold_batch_norms(copy.deepcopy(module))
    assert type(folded) is Net
    assert [name for name, m in folded.named_modules() if isinstance(m, nn.BatchNorm2d)] == ["third"]
    torch.testing.assert_close(folded(pixels().contiguous()), module(pixels().contiguous()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", ["conv", "norm"])
def test_what_is_used_twice_is_not_folded(shared: str) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.norm.running_var.fill_(4.0)  # type: ignore[union-attr]

        def forward(self, x: Tensor) -> Tensor:
            if shared == "conv":
                return self.other(self.conv(self.norm(self.conv(x))))
            return self.norm(F.relu(self.norm(self.conv(x))))

    module = Twice().eval()
    torch.testing.assert_close(fold_batch_norms(copy.deepcopy(module))(pixels()), module(pixels()), rtol=1e-4, atol=1e-4)


def norms(model: Foreign) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("spec", [None, SPEC], ids=["pixels", "standardised"])
def test_the_copy_answers_like_the_original(spec: Spec | None) -> None:
    model = adopt(trained(), pixels(64), 4, name="net", spec=spec)
    fast = AttackCopy(model)
    ours, theirs = ([], [])
    for net, kept in ((fast, ours), (model, theirs)):
        x = pixels(16, 7).requires_grad_()
        logits = net(x)
        kept += [logits.detach(), *torch.autograd.grad(logits.square().sum(), x)]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert norms(model) == 3
    assert norms(faithful(model, torch.float32)) == 1
    assert not any(p.requires_grad for p in fast.parameters())
    assert not any(module.training for module in fast.modules())
    theirs_ = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
    assert theirs_.isdisjoint(t.untyped_storage().data_ptr() for t in fast.state_dict().values())
    assert fast.refresh() is fast


def test_bf16_by_autocast_answers_in_fp32_and_keeps_fp32_weights() -> None:
    model = adopt(trained(), pixels(64), 4, name="net", spec=SPEC)
    low = faithful(model, torch.bfloat16)
    assert low.precision == torch.bfloat16
    expected, logits = model(pixels()), low(pixels())
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, expected)
    assert (logits - expected).abs().mean() < 0.03 * expected.abs().mean() + 0.01
    assert {p.dtype for p in low.parameters()} == {torch.float32}
    assert (model.precision, model.layout) == (torch.float32, torch.contiguous_format)


def test_view_needs_the_ordinary_layout_and_flatten_does_not() -> None:
    assert faithful(adopt(trained(), pixels(), 4, name="net"), torch.float32).layout == torch.contiguous_format
    flat = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))
    copied = faithful(adopt(flat, pixels(), 4, name="net"), torch.float32)
    assert (copied.layout, norms(copied)) == (torch.channels_last, 0)


def _small_differences(net: nn.Module, x: Tensor) -> Tensor:
    """Logits that 8 bits of mantissa cannot tell apart."""
    return F.linear(torch.cat([net(x), torch.full((len(x), 1), 1e4)], 1), torch.cat([torch.eye(4), torch.ones(4, 1)], 1))


def _refuses_bf16(net: nn.Module, x: Tensor) -> Tensor:
    if float(x.detach().sum()) > 0 and torch.is_autocast_enabled("cpu"):  # a tracer cannot look at the sum
        raise TypeError("what is this")
    return net(x)


@pytest.mark.parametrize("act", [_small_differences, _refuses_bf16])
def test_falls_back_to_fp32_where_bf16_will_not_do(act: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = adopt(Around(act), pixels(64), 4, name="net")
    assert faithful(model, torch.bfloat16).precision == torch.float32
    torch.testing.assert_close(AttackCopy(model, torch.bfloat16)(pixels()), model(pixels()), rtol=1e-3, atol=1e-3)


def test_a_forward_that_looks_at_its_images_is_copied_unfolded() -> None:
    model = adopt(Around(lambda net, x: net(x) if x.mean() < 0.9 else net(1 - x)), pixels(), 4, name="net")
    assert norms(faithful(model, torch.float32)) == 3
    bright = 0.95 + 0.05 * pixels()
    torch.testing.assert_close(AttackCopy(model)(bright), model(bright), rtol=1e-4, atol=1e-4)


def test_noise_is_not_traced_into_a_constant() -> None:
    model = adopt(Around(lambda net, x: net(x + 0.3 * torch.randn(1, 3, 8, 8))), pixels(), 4, name="net")
    fast = AttackCopy(model)
    assert not torch.equal(fast(pixels()), fast(pixels()))


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    x = pixels(64).cuda()
    model = adopt(trained(), x, 4, name="net", spec=SPEC)
    low = faithful(model, torch.bfloat16)
    assert low.precision == torch.bfloat16
    assert (low(x).argmax(1) == model(x).argmax(1)).float().mean() >= 0.95
    with pytest.raises(Refused, match="puts its logits on cpu, and cuda:0 was asked for"):
        adopt(Around(lambda net, x: net(x).cpu()), x, 4, name="net")


def test_a_parameter_of_five_dimensions_is_in_no_ones_way() -> None:
    """channels_last is for tensors of four."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deep, self.net = nn.Conv3d(1, 1, 3, padding=1), trained()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x + 0.01 * self.deep(x.unsqueeze(1)).squeeze(1))
            return out

    model = adopt(Deep().eval(), pixels(), 4, name="net")
    copied = faithful(model, torch.float32)
    torch.testing.assert_close(copied(pixels()), model(pixels()), rtol=1e-3, atol=1e-3)
