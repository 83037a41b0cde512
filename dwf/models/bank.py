"""The experts side by side: a list, so that each is an ordinary module with a phase of its own.

Where memory is short, a bank computes its experts again one after another in the backward pass instead of keeping what all of them
computed: the activations of one expert are alive at a time, for one more forward pass. Gradients are those of the ordinary pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dwf.core.types import Recompute

Answer = TypeVar("Answer")


@runtime_checkable
class Featured(Protocol):
    """A net that tells what its linear head reads: logits = head(features(x))."""

    head: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """Pooled features (B, F) of images (B, C, H, W) in [0, 1]."""
        ...


class ExpertBank(nn.ModuleList):
    """K experts on the same images: (B, C, H, W) in [0, 1] -> opinions (B, K, classes), each expert's logits."""

    recompute: Recompute = "never"
    """When the backward pass computes each expert again; a copy of the bank does as the bank did."""

    def __init__(self, experts: Iterable[nn.Module]) -> None:
        super().__init__(experts)

    def forward(self, x: Tensor) -> Tensor:
        """Every expert's logits, in fp32 at least: they are mixed and compared."""
        return torch.stack([self.opinion(number, x) for number in range(len(self))], dim=1)

    def opinion(self, number: int, x: Tensor) -> Tensor:
        """One expert's logits (B, classes), for callers who ask several before they differentiate."""
        return _exact(self.ask(number, x, _logits))

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features of all experts side by side (B, F) and opinions (B, K, classes), in one pass.

        All experts are `Featured`.
        """
        features, opinions = zip(*(self.ask(number, x, _features_and_logits) for number in range(len(self))), strict=True)
        return torch.cat(features, dim=1), torch.stack([_exact(opinion) for opinion in opinions], dim=1)

    def ask(self, number: int, x: Tensor, question: Callable[[nn.Module, Tensor], Answer]) -> Answer:
        """`question(expert, x)` of one expert, a tensor or a tuple of them; x (B, C, H, W) in [0, 1].

        Where the bank is told to recompute, nothing is kept for the backward pass, which asks again: at full batch, with the same
        dropout and precision, and without moving batch-norm statistics a second time.
        """
        expert = self[number]
        again = self.recompute == "always" or (self.recompute == "learning" and self.training)
        if not again or not torch.is_grad_enabled():
            return question(expert, x)
        answer: Answer = checkpoint(
            question, expert, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _buffers_kept(expert))
        )
        return answer


def _logits(expert: nn.Module, x: Tensor) -> Tensor:
    logits: Tensor = expert(x)
    return logits


def _features_and_logits(expert: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(expert, Featured)
    features = expert.features(x)
    return features, expert.head(features)


def _exact(logits: Tensor) -> Tensor:
    """In fp32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@contextmanager
def _buffers_kept(expert: nn.Module) -> Iterator[None]:
    """What happens inside moves no running statistics. Not by `copy_` on the buffers: the graph would take them for changed."""
    before = [(buffer, buffer.clone()) for buffer in expert.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)
