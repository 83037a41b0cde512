"""Upper bounds of how fast a net's answers can move, layer by layer: induced norms, their products and sums.

Every number here is at least the true constant, up to rounding in fp64: no power iteration, which finds lower bounds. A convolution
is bounded on the infinite plane, sqrt(|W|_1 |W|_inf) in L2 and |W|_inf in Linf, the largest sums of absolute weights over outputs
and over inputs; padding and strides only take rows and columns away. Batch-norm is its affine map in eval mode, ReLU and MaxMin
are 1-Lipschitz, and residual branches add.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Literal

import torch
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.models.folding import folded
from dwf.models.layers import ConvNorm
from dwf.models.linear import LinearNet
from dwf.models.lipschitz import BoundedConv, LipschitzNet, MaxMin
from dwf.models.normalize import Normalize
from dwf.models.resnet import BasicBlock, Bottleneck, ConvNet, PreActivationBlock

Norm = Literal["linf", "l2"]
ROUNDING = 1e-5
"""Relative error of a bounded weight in fp32, which its bound of 1 does not know of."""


@singledispatch
def lipschitz(module: nn.Module, norm: Norm) -> float:
    """An upper bound of the module's Lipschitz constant from `norm` to `norm`, in eval mode.

    Raises `Refused` for a module that is not known here.
    """
    raise _unknown(module)


@lipschitz.register
def _(module: Normalize, norm: Norm) -> float:
    return 1 / float(module.std.min())


@lipschitz.register
def _(module: nn.Conv2d, norm: Norm) -> float:
    return _sums(module.weight, norm)


@lipschitz.register
def _(module: ConvNorm, norm: Norm) -> float:
    return _sums(folded(module.conv, module.norm)[0], norm)


@lipschitz.register
def _(module: BoundedConv, norm: Norm) -> float:
    return 1 + ROUNDING if norm == "l2" else _sums(module.folded()[0], norm)


@lipschitz.register
def _(module: nn.BatchNorm2d, norm: Norm) -> float:
    assert module.running_var is not None
    return float((module.weight.detach().double().abs() / (module.running_var.double() + module.eps).sqrt()).max())


@lipschitz.register(nn.ReLU)
@lipschitz.register(MaxMin)
@lipschitz.register(nn.PixelUnshuffle)
def _(module: nn.Module, norm: Norm) -> float:
    return 1.0


@lipschitz.register
def _(module: nn.Sequential, norm: Norm) -> float:
    return math.prod(lipschitz(layer, norm) for layer in module)


@lipschitz.register
def _(module: BasicBlock, norm: Norm) -> float:
    return lipschitz(module.first, norm) * lipschitz(module.second, norm) + _shortcut(module.shortcut, norm)


@lipschitz.register
def _(module: Bottleneck, norm: Norm) -> float:
    through = math.prod(lipschitz(layer, norm) for layer in (module.reduce, module.spatial, module.expand))
    return through + _shortcut(module.shortcut, norm)


@lipschitz.register
def _(module: PreActivationBlock, norm: Norm) -> float:
    active = lipschitz(module.norm, norm)
    through = active * lipschitz(module.first, norm) * lipschitz(module.second, norm)
    return through + (1.0 if module.shortcut is None else active * lipschitz(module.shortcut, norm))


def differences(net: nn.Module, norm: Norm, pixels: int) -> Tensor:
    """(classes, classes) float64 upper bounds of the Lipschitz constants of z_c - z_k, for moves of the image measured in `norm`.

    `pixels`: C x H x W, for a move in Linf by 1 is one in L2 by at most its root. Raises `Refused` for a net that is not known.
    """
    euclidean = _differences(net, "l2")
    return euclidean if norm == "l2" else torch.minimum(_differences(net, norm), math.sqrt(pixels) * euclidean)


def _differences(net: nn.Module, norm: Norm) -> Tensor:
    """|w_c - w_k| in the dual norm, times the bound of everything before the last layer."""
    rows, before = _last(net, norm)
    rows = rows.detach().double().cpu()
    return before * torch.cdist(rows, rows, p=2 if norm == "l2" else 1, compute_mode="donot_use_mm_for_euclid_dist")


@singledispatch
def _last(net: nn.Module, norm: Norm) -> tuple[Tensor, float]:
    """Rows (classes, features) of the last layer, and the bound of what feeds it."""
    raise _unknown(net)


@_last.register
def _(net: LinearNet, norm: Norm) -> tuple[Tensor, float]:
    """Exact: the deviations are folded into the rows."""
    std = net.normalize.std.double().flatten()
    rows = net.head.weight.double().view(len(net.head.weight), len(std), -1) / std.view(1, -1, 1)
    return rows.flatten(1), 1.0


@_last.register
def _(net: LipschitzNet, norm: Norm) -> tuple[Tensor, float]:
    rows = net.head.folded()[0].flatten(1).double() * net.factor.double()
    return rows, lipschitz(net.normalize, norm) * lipschitz(net.layers, norm)


@_last.register
def _(net: ConvNet, norm: Norm) -> tuple[Tensor, float]:
    """The mean over positions is at most 1-Lipschitz in both norms."""
    return net.head.weight, math.prod(lipschitz(part, norm) for part in (net.normalize, net.stem, net.blocks))


def _sums(weight: Tensor, norm: Norm) -> float:
    """Of a convolution's weight (out, in, k, k)."""
    size = weight.detach().double().abs()
    rows = float(size.sum((1, 2, 3)).max())
    return rows if norm == "linf" else math.sqrt(rows * float(size.sum((0, 2, 3)).max()))


def _shortcut(projection: nn.Module | None, norm: Norm) -> float:
    return 1.0 if projection is None else lipschitz(projection, norm)


def _unknown(module: nn.Module) -> Refused:
    name = type(module).__name__
    return Refused(f"no Lipschitz bound of a {name} is known; certify nets of the kinds resnet, wide-resnet, linear or lipschitz")
