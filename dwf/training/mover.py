"""One learner in motion: its optimizer, its learning rate, its share of every update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dwf.core import ranks
from dwf.training.plan import Learner, Update


class Mover:
    """Takes the steps that a phase asks for, on the learner's trainable parameters and on nothing else."""

    def __init__(self, learner: Learner, accumulate: int = 1, clip: float | None = None) -> None:
        """`accumulate`: updates a step. `clip`: largest norm of the learner's whole gradient; None leaves it alone."""
        groups = [(g.learning_rate, [p for p in g.parameters if p.requires_grad]) for g in learner.groups]
        self.parameters: list[nn.Parameter] = [p for _, parameters in groups for p in parameters]
        self.optimizer = learner.optimizer([{"params": p} if lr is None else {"params": p, "lr": lr} for lr, p in groups])
        self._base = [group["lr"] for group in self.optimizer.param_groups]
        self._schedule, self._accumulate, self._clip, self._waiting = learner.schedule, accumulate, clip, 0
        self.learning_rate = self._base[0]

    def take(self, update: Update, progress: float) -> bool:
        """Backward, and an optimizer step once enough updates have gathered: was there one? `progress` sets the learning rate."""
        if self._waiting == 0:
            self.optimizer.zero_grad(set_to_none=True)
        for leaf in update.also:
            leaf.grad = None
        # Only the named leaves receive gradients: another learner's stale gradient cannot be stepped twice.
        (update.loss / self._accumulate).backward(inputs=[*self.parameters, *update.also])  # type: ignore[no-untyped-call]
        self._waiting += 1
        if self._waiting < self._accumulate:
            return False
        self._waiting = 0
        ranks.average_gradients(self.parameters)
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self._clip)
        for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
            group["lr"] = base * self._schedule(progress)
        self.learning_rate = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # the next attack has their memory
        return True

    def begin(self) -> None:
        """A step without gradients, after which the optimizer has its memory; weight decay may move the parameters."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @property
    def kept(self) -> int:
        """Bytes of the optimizer's memory."""
        return sum(tensor.nbytes for tensor in self.state().values())

    def state(self) -> dict[str, Tensor]:
        """The optimizer's memory as named tensors (`<parameter number>.<name>`): momentum, moments, step counts."""
        memory: dict[int, dict[str, Any]] = self.optimizer.state_dict()["state"]
        return {f"{n}.{key}": value for n, slots in memory.items() for key, value in slots.items() if isinstance(value, Tensor)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        memory: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            number, _, key = name.partition(".")
            memory.setdefault(int(number), {})[key] = value
        self.optimizer.load_state_dict({"state": memory, "param_groups": self.optimizer.state_dict()["param_groups"]})


def precision_of(name: str, native: torch.dtype) -> torch.dtype:
    """`fp32`, `bf16`, or `auto`: what the processor multiplies natively."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "auto": native}[name]
