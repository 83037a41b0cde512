"""The fast copy of a model that attacks ascend: folded batch-norm, channels_last, bf16, no gradient for any parameter.

Attacks ask for input gradients only and ask very often; benchmarks/joint_step.py measures what this saves. Generation on the copy
may be rounded; the verdict is always the original's, in fp32.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dwf.core.types import Routed
from dwf.models.compiled import compile_nets, is_compiled
from dwf.models.folding import after, fold_batch_norms, folded, traced_pairs, with_bias
from dwf.models.foreign import Foreign
from dwf.models.layers import ConvNorm
from dwf.models.lipschitz import BoundedConv
from dwf.models.timm import TimmNet

AGREEMENT = 0.95
"""Share of the probe images of which a copy of a foreign module must name the original's class."""


class AttackCopy(nn.Module):
    """A copy of `model` in eval mode for attacks: (B, C, H, W) float32 in [0, 1] -> logits (B, classes) float32.

    The model may go on training: `refresh` takes over its present weights and statistics. A mixture's `route` and `surrogate`
    are those of `inner`. The copy of a compiled model is compiled. A `Foreign` model gets a `faithful` copy, for evaluation: it is
    not refreshed.
    """

    def __init__(self, model: nn.Module, precision: torch.dtype = torch.float32, *, batch_statistics: bool = False) -> None:
        """`batch_statistics`: normalise by the attacked batch, as in training mode, instead of the running statistics."""
        super().__init__()
        self._folds: list[tuple[Callable[[], tuple[Tensor, Tensor]], nn.Conv2d]] = []
        self._plain: list[tuple[Tensor, Tensor]] = []
        self.inner: nn.Module
        if isinstance(model, Foreign):
            assert not batch_statistics, "foreign modules are evaluated, not trained"
            self.inner = faithful(model, precision)
            self.eval()
            return
        self._source = [model]  # in a list: the original is not a sub-module of its copy
        self.inner = copy.deepcopy(model).requires_grad_(False)
        if batch_statistics:
            for module in self.inner.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean = module.running_var = None
        else:
            self.inner = self._fold(model, self.inner)
        for module in self.inner.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.to(precision)  # batch-norm that stands alone and normalisation stay fp32
        self.inner.to(memory_format=torch.channels_last)
        self._plain = self._unfolded(model)
        if is_compiled(model):
            compile_nets(self.inner)
        self.eval()
        self.refresh()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) in fp32."""
        logits: Tensor = self.inner(x)
        return logits.float()

    @torch.no_grad()
    def refresh(self) -> AttackCopy:
        """Take over the original's present weights and statistics; cheap beside one attack step."""
        for source, target in self._plain:
            target.copy_(source)
        for folding, single in self._folds:
            weight, bias = folding()
            single.weight.copy_(weight)
            assert single.bias is not None
            single.bias.copy_(bias)
        return self

    def _fold(self, source: nn.Module, target: nn.Module) -> nn.Module:
        """Make one convolution of each bounded one, and of each with its batch-norm; remember whose weights it has."""
        if isinstance(source, ConvNorm):
            return self._one(source.conv, source.norm, copy.deepcopy(source.conv))
        if isinstance(source, BoundedConv):
            single = copy.deepcopy(source.conv)
            self._folds.append((source.folded, with_bias(single)))
            return single
        if isinstance(source, TimmNet):
            return self._fold_traced(source, target)
        for name, child in source.named_children():
            setattr(target, name, self._fold(child, target.get_submodule(name)))
        return target

    def _fold_traced(self, source: nn.Module, target: nn.Module) -> nn.Module:
        """The same where only tracing knows what belongs together; a net that cannot be traced keeps its batch-norms."""
        try:
            pairs = [(f"net.{conv}", f"net.{norm}") for conv, norm in traced_pairs(target.eval().get_submodule("net"))]
        except Exception:  # noqa: BLE001  a forward that looks at its tensors says so in any way
            return target
        for name, follower in pairs:
            conv, norm, ours = source.get_submodule(name), source.get_submodule(follower), target.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            assert isinstance(ours, nn.Conv2d)
            self._one(conv, norm, ours)
            target.set_submodule(follower, after(target.get_submodule(follower)))
        return target

    def _one(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, target: nn.Conv2d) -> nn.Conv2d:
        self._folds.append((partial(folded, conv, norm), with_bias(target)))
        return target

    def _unfolded(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Pairs (original, copy) of every tensor that is not inside a folded pair."""
        joined = {id(tensor) for _, single in self._folds for tensor in single.parameters()}
        ours = dict(self.inner.named_parameters()) | dict(self.inner.named_buffers())
        theirs = dict(model.named_parameters()) | dict(model.named_buffers())
        return [(theirs[name], tensor) for name, tensor in ours.items() if name in theirs and id(tensor) not in joined]


def faithful(model: Foreign, precision: torch.dtype) -> Foreign:
    """The fastest copy of a module from elsewhere that still answers like it on its probe images.

    Batch-norm is folded where that changes nothing, convolutions and matrix products run in `precision` by autocast, and images
    lie channels_last; what raises, is not finite or names another class on more than 5 % of the images goes back to the ordinary
    memory layout, and then to fp32. The copy's `precision` says what it came to.
    """
    if model.probabilities:
        precision = torch.float32  # in bf16 a probability above 0.998 is 1, and the gradient of its logarithm 0
    with torch.no_grad():
        expected = model(model.probe)
    fast = _folded(model, expected)
    for dtype in dict.fromkeys((precision, torch.float32)):
        for layout in (torch.channels_last, torch.contiguous_format):
            fast.precision, fast.layout = dtype, layout
            with suppress(RuntimeError):  # channels_last is for tensors of four dimensions; a stranger may have others
                fast.to(memory_format=layout)
            if _agrees(fast, expected):
                return fast
    return fast


def _agrees(fast: Foreign, expected: Tensor) -> bool:
    """Does the copy run forwards and backwards, stay finite, and name the classes of the logits `expected`?"""
    x = fast.probe.clone().requires_grad_()
    try:
        with torch.enable_grad():
            logits = fast(x)
            (gradient,) = torch.autograd.grad(logits.sum(), x)
    except Exception:  # noqa: BLE001  strangers raise what they like at a precision or a layout that they do not know
        return False
    same = (logits.argmax(1) == expected.argmax(1)).float().mean()
    return bool(logits.isfinite().all() and gradient.isfinite().all() and same >= AGREEMENT)


def _folded(model: Foreign, expected: Tensor) -> Foreign:
    """A copy with batch-norm folded where tracing succeeds and the logits stay `expected` but for rounding; else a plain copy."""
    plain = copy.deepcopy(model)
    if isinstance(model, Routed):  # the comparison below would not see what `route` makes of the parts
        return plain
    fused = copy.deepcopy(plain)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer's, about things that the comparison below would find
            fold_batch_norms(fused.module)
            off = (fused(fused.probe) - expected).abs().max()
    except Exception:  # noqa: BLE001  a forward that looks at its tensors cannot be traced, and says so in any way
        return plain
    return fused if off <= 1e-3 * expected.abs().max().clamp(min=1) else plain


def attack_precision(device: torch.device) -> torch.dtype:
    """bf16 where the processor multiplies it natively, else fp32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else torch.float32


@lru_cache
def _cpu_has_bf16() -> bool:
    """Linux says so in /proc/cpuinfo (x86: avx512_bf16, amx_bf16; Arm: bf16); elsewhere assume not."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in flags.split() for flag in ("avx512_bf16", "amx_bf16", "bf16"))
