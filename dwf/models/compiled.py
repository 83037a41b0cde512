"""Our nets as generated code: `torch.compile` fuses what lies between the convolutions.

On a processor that is about half the time of a narrow net: benchmarks/joint_step.py measures both. Nets of one architecture share
their code, so nine experts are compiled once. The code keeps more digits of what it fuses than bf16 layers do one by one, so a
compiled run is as good as another and not the same bits.
"""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
from torch import Tensor, nn

from dwf.models.resnet import ConvNet

SHAPES = 64
"""Kinds of calls (mode, precision, batch) that all nets of a process may be compiled for; PyTorch gives up after 8."""


def compile_nets(model: nn.Module, *, any_batch: bool = False) -> None:
    """Compile each of our nets inside `model`, at its first call, for each batch size or (a little slower) for all sizes at once.

    Names of parameters stay as they are; a copy of the model starts uncompiled. The first call of a kind takes some ten seconds,
    or two where the machine has met it before.
    """
    torch._dynamo.config.recompile_limit = SHAPES
    for net in _nets(model):
        net.compile(dynamic=any_batch)


def is_compiled(model: nn.Module) -> bool:
    """Whether a net inside was compiled."""
    return any(net._compiled_call_impl is not None for net in _nets(model))


@lru_cache
def can_compile(device: str) -> bool:
    """Whether code can be generated for this kind of device here: a processor needs a C++ compiler. Tried out, once a process."""
    x = torch.ones(2, device=device, requires_grad=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.autograd.grad(torch.compile(_sample)(x).sum(), x)
    except Exception:  # noqa: BLE001  whatever is missing, eager code does the same
        return False
    return True


def _sample(x: Tensor) -> Tensor:
    return torch.relu(x) + 1


def _nets(model: nn.Module) -> list[ConvNet]:
    return [module for module in model.modules() if isinstance(module, ConvNet)]
