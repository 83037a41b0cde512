"""torchrun without a wrapper: one process per device, gradients averaged explicitly.

A DDP wrapper only averages what went through its own forward; methods call sub-modules all the time, so the loop averages the
gradients itself. With one process every function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from dwf.core.errors import Refused
from dwf.core.types import Batch


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA, then MPS, then the CPU), `cpu`, `cuda`, `cuda:1`, `mps`; raises `Refused` for what is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # under torchrun each rank has its own
    refusal = Refused(f"device '{name}' is not available here; use auto, cpu, cuda, cuda:N or mps")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        raise refusal from None
    if device.type == "meta":  # has shapes and no numbers
        raise refusal
    # fp32 means fp32: cuDNN's default would judge in TF32, with a mantissa of 10 bits.
    torch.backends.cudnn.allow_tf32 = False
    return device


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """The process group of a torchrun launch (gloo on the CPU, nccl on CUDA); nothing without torchrun.

    What one rank refuses the others refuse too, where they notice that it is gone (gloo does), in place of a lost connection.
    """
    if launched() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # A rank may wait long for one that does a resumed evaluation's last batches by itself.
    limit, backend = timedelta(days=1), "nccl" if device.type == "cuda" else "gloo"
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise Refused(f"WORLD_SIZE is {launched()} and {missing[0]} is not set; start dwf by torchrun, or unset WORLD_SIZE")
    shared, own, count = next(rendezvous("env://", timeout=limit))
    store = PrefixStore(f"dwf/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)  # torchrun's outlives a restart
    try:
        dist.init_process_group(backend, store=store, rank=own, world_size=count, timeout=limit)
        yield
    except Refused as refusal:
        store.set(_REFUSAL, str(refusal))
        raise
    except RuntimeError:
        if store.check([_REFUSAL]):
            raise Refused(store.get(_REFUSAL).decode()) from None
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def launched() -> int:
    """How many processes torchrun has started, also before they are together; 1 without torchrun."""
    try:
        return int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise Refused(f"WORLD_SIZE is '{os.environ['WORLD_SIZE']}' and no number; start dwf by torchrun, or unset it") from None


def restarted() -> bool:
    """Whether torchrun started these processes anew after it had lost one: what they were at goes on, as with --resume."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


_REFUSAL = "refusal"
"""Where the first rank that refuses something leaves its sentence for the others."""
_apart = ContextVar("_apart", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process counts as the only one: what it computes there the others neither share nor wait for."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def rank() -> int:
    """This process's number, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() and not _apart.get() else 0


def world() -> int:
    """How many processes there are, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() and not _apart.get() else 1


def barrier() -> None:
    """Wait for everybody."""
    if world() > 1:
        dist.barrier()


def dealt(batch: Batch) -> Batch:
    """This rank's images of a batch of any size, perhaps none: every `world()`th."""
    mine = slice(rank(), None, world())
    return Batch(batch.x[mine], batch.y[mine], batch.index[mine])


def share(tensor: Tensor) -> Tensor:
    """This rank's equal, contiguous part of a global batch (B, ...); B must divide by the number of ranks."""
    part = len(tensor) // world()
    return tensor[rank() * part : (rank() + 1) * part]


def average(tensors: Iterable[Tensor], *, exact: bool = False) -> None:
    """Replace each floating tensor by its mean over the ranks, in one message.

    `exact`: in fp64, where what is equal on all ranks stays what it is; a third of a sum of three may differ in the last place.
    """
    tensors = [t for t in tensors if t.is_floating_point()]
    if world() == 1 or not tensors:
        return
    flat = torch.cat([t.detach().flatten().to(torch.float64 if exact else t.dtype) for t in tensors])
    dist.all_reduce(flat)
    flat /= world()
    for tensor, mean in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(mean.view_as(tensor))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Mean gradients over the ranks. A parameter without a gradient counts as zeros, on one rank as on many (top-1 routing)."""
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    average([p.grad for p in parameters if p.grad is not None])


def told(words: str) -> str:
    """Rank 0's words, on every rank."""
    if world() == 1:
        return words
    said = [words]
    dist.broadcast_object_list(said, 0)
    return said[0]


def total(counts: Mapping[str, int]) -> dict[str, int]:
    """Sums of whole numbers over the ranks, the same on each."""
    if world() == 1:
        return dict(counts)
    values = torch.tensor(list(counts.values()))
    if dist.get_backend() == "nccl":
        values = values.cuda()
    dist.all_reduce(values)
    return dict(zip(counts, values.tolist(), strict=True))
