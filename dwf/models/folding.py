"""Batch-norm in eval mode is an affine map of each channel, so the convolution before it can take it over.

In our own nets a `ConvNorm` says which two belong together; in a net from elsewhere tracing finds them.
"""

from __future__ import annotations

from collections import Counter, OrderedDict

import torch
from torch import Tensor, fx, nn


@torch.no_grad()
def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the single convolution that equals `conv`, then `norm` with its running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    deviation = (norm.running_var + norm.eps).sqrt()
    scale = 1 / deviation if norm.weight is None else norm.weight / deviation
    shift = -norm.running_mean * scale if norm.bias is None else norm.bias - norm.running_mean * scale
    return conv.weight * scale.view(-1, 1, 1, 1), shift if conv.bias is None else shift + conv.bias * scale


def with_bias(conv: nn.Conv2d) -> nn.Conv2d:
    """`conv`, changed: it wants no gradient any more and has a bias, if only of zeros, that `folded` values can be written to."""
    if conv.bias is None:
        conv.bias = nn.Parameter(torch.zeros_like(conv.weight[:, 0, 0, 0]))
    return conv.requires_grad_(False)


def traced_pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of each convolution in `module` (eval mode) and of the batch-norm that alone reads it.

    Tracing only finds them and computes nothing. Raises whatever tracing raises: a forward that looks at its tensors cannot be
    traced, and says so in any way.
    """
    graph, modules = _Tracer().trace(module), dict(module.named_modules())
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        source = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
            continue
        if calls[node.target] > 1 or calls[source.target] > 1:
            continue
        conv, norm = modules[str(source.target)], modules[str(node.target)]
        if type(conv) is nn.Conv2d and _is_batch_norm(norm) and norm.running_var is not None:
            pairs.append((str(source.target), str(node.target)))
    return pairs


def after(norm: nn.Module) -> nn.Module:
    """What a batch-norm still does once it is folded: nothing, or for timm's with an activation inside, that activation."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    return nn.Sequential(OrderedDict(norm.named_children()))


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """`module` (eval mode), changed: every pair that tracing finds is one convolution. Raises whatever tracing raises."""
    for name, follower in traced_pairs(module):
        conv, norm = module.get_submodule(name), module.get_submodule(follower)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        weight, bias = folded(conv, norm)
        with torch.no_grad():
            with_bias(conv).weight.copy_(weight)
            assert conv.bias is not None
            conv.bias.copy_(bias)
        module.set_submodule(follower, after(norm))
    return module


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Convolutions and batch-norms of timm are whole, as those of torch are."""
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _is_batch_norm(module: nn.Module) -> bool:
    """torch's own, or timm's that is followed by its children `drop` and `act`; other subclasses may do anything."""
    kind = type(module)
    timms = kind.__module__.startswith("timm.") and kind.__name__ == "BatchNormAct2d"
    return kind is nn.BatchNorm2d or (isinstance(module, nn.BatchNorm2d) and timms)
