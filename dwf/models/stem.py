"""Stems for small images: what nets for 224 pixels halve first is not halved, so that 32 pixels end in a map and not in a point.

He et al.'s net for CIFAR-10 does so by design; this does it to a net that exists. Halvings are taken out from the first one on, on
every branch that sees the same size: a convolution gets stride 1 and keeps the size, a pooling goes. A convolution that reads
the image in large or even steps (7x7, 4x4) becomes an ordinary 3x3 one. A net that begins at full size, as VGG does, stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

SIDE = 32
"""Pixels of the images that decide. A constant: the same name is the same net for images of any size."""
SMALLEST = 4
"""Side of the last map of such an image: that of a CIFAR ResNet-18."""


def without_halvings(net: nn.Module, channels: int) -> list[str]:
    """Change `net`, a net of timm on the meta device, until images of SIDE pixels end in a map of SMALLEST or larger.

    Returns the names of what was changed, for `undo`; none where there is nothing to take out.
    """
    names: list[str] = []
    info = getattr(net, "feature_info", None) or [{}]
    if info[0].get("reduction") == 1:
        return names
    while True:
        side, steps = _pass(net, channels)
        if side >= SMALLEST or not steps:
            return names
        largest = max(steps.values())
        first = [name for name, size in steps.items() if size == largest]
        undo(net, first, channels)
        names += first


@torch.no_grad()
def undo(net: nn.Module, names: Sequence[str], channels: int) -> None:
    """Take the stride out of the named convolutions and poolings of `net`, whose images have `channels` channels."""
    for name in names:
        module = net.get_submodule(name)
        if not isinstance(module, nn.Conv2d):
            net.set_submodule(name, nn.Identity())
            continue
        kernel = max(module.kernel_size)
        if type(module) is nn.Conv2d and (kernel % 2 == 0 or (kernel > 3 and module.in_channels == channels)):
            net.set_submodule(name, _three_by_three(module))
            continue
        module.stride = (1, 1)
        if type(module) is nn.Conv2d:  # the others pad by themselves
            module.padding = tuple((size - 1) // 2 * gap for size, gap in zip(module.kernel_size, module.dilation, strict=True))


def _pass(net: nn.Module, channels: int) -> tuple[int, dict[str, int]]:
    """Side of the last map of an image of SIDE pixels, 0 if it does not get there, and the side that each stride met."""
    steps: dict[str, int] = {}

    def note(module: nn.Module, seen: tuple[Tensor], name: str) -> None:
        steps[name] = seen[0].shape[-1]

    hooks = [m.register_forward_pre_hook(partial(note, name=name)) for name, m in net.named_modules() if _strides(m)]
    try:
        last = net.forward_features(torch.empty(2, channels, SIDE, SIDE, device="meta"))  # type: ignore[operator]
        side = last.shape[2] if last.dim() == 4 else SMALLEST  # tokens are no map
    except Exception:  # noqa: BLE001  nets say in many ways that an image is too small
        side = 0
    finally:
        for hook in hooks:
            hook.remove()
    return side, steps


def _strides(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return False
    return max(module.stride) > 1 if isinstance(module.stride, tuple) else module.stride > 1


def _three_by_three(conv: nn.Conv2d) -> nn.Conv2d:
    """Of the same channels; PyTorch's own initialisation, as everywhere in our nets."""
    shape = (conv.in_channels, conv.out_channels, 3, 1, 1)
    return nn.Conv2d(*shape, groups=conv.groups, bias=conv.bias is not None, device=conv.weight.device)
