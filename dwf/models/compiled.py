"""Our nets as generated code: `torch.compile` fuses what lies between the convolutions.

On a processor that is about half the time of a narrow net: benchmarks/joint_step.py measures both. Nets of one architecture share
their code, so nine experts are compiled once. The code keeps more digits of what it fuses than bf16 layers do one by one, so a
compiled run is as good as another and not the same bits.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.types import Compile
from dwf.models.resnet import ConvNet

KINDS = 64
"""Kinds of calls (net, mode, precision) that all nets of a process may be compiled for; PyTorch gives up after 8."""


def pays(wish: Compile, work: Callable[[], float], enough: float, device: torch.device) -> bool:
    """Whether to compile: as the user wishes, and on `auto` where that can be done and `work()` is at least `enough`.

    Raises `Refused` where it cannot be done and the user insists.
    """
    if wish == "always" and not can_compile(device.type):
        raise Refused(
            "compile is 'always', but torch.compile does not work here (on a processor it needs a C++ compiler); "
            "install one or set it to 'auto'"
        )
    return wish == "always" or (wish == "auto" and work() >= enough and can_compile(device.type))


def compile_nets(model: nn.Module) -> int:
    """Compile each of our nets inside `model`, at its first call, for batches of all sizes at once; returns how many there are.

    One size at a time is hardly faster, and methods that send each expert its own images would compile without end. Names of
    parameters stay as they are; a copy of the model starts uncompiled. The first call of a kind takes some ten seconds, or two
    where the machine has met it before.
    """
    torch._dynamo.config.recompile_limit = KINDS
    nets = _nets(model)
    for net in nets:
        net.compile(dynamic=True)
    return len(nets)


def is_compiled(model: nn.Module) -> bool:
    """Whether a net inside was compiled."""
    return any(net._compiled_call_impl is not None for net in _nets(model))


@lru_cache
def can_compile(device: str) -> bool:
    """Whether code can be generated for this kind of device here: a processor needs a C++ compiler. Tried out, once a process."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns where CUDA is installed without a GPU
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
