"""The moving average of what a phase learns (`train.average`): it is validated and kept in place of the last step's weights.

    average <- average + (1 - d) (present - average),   d = min(decay, (1 + t) / (10 + t)) after step t = 0, 1, ...
Averaging along the path finds flatter minima (Izmailov et al., UAI 2018); exponentially and with this warm-up it lessens robust
overfitting (Gowal et al., arXiv 2010.03593; Rebuffi et al., NeurIPS 2021; read: `ema_update` and `update_bn` of the PyTorch version
imrahulr/adversarial_robustness_pytorch). Batch-norm's running statistics are averaged alike. That code takes over the present ones,
which belong to other weights; Izmailov's pass over the images costs one, on images that only the method knows how to make.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Of all weights and buffers of `subject`; with `decay` None there is none, and the subject stands for itself."""

    def __init__(self, subject: nn.Module, decay: float | None) -> None:
        self._subject, self._decay, self.steps = subject, decay, 0
        self.tensors: dict[str, Tensor] = {} if decay is None else _copies(subject)

    @torch.no_grad()
    def take(self) -> None:
        """Take in the present state, after an optimizer step."""
        if self._decay is None:
            return
        share = 1 - min(self._decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        present = self._subject.state_dict()
        for name, tensor in self.tensors.items():
            if tensor.is_floating_point():
                tensor.lerp_(present[name], share)  # what does not move stays as it is, bit for bit
            else:
                tensor.copy_(present[name])

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the subject holds the average; afterwards it is as it was."""
        present = _copies(self._subject) if self.tensors else {}
        self.install()
        try:
            yield
        finally:
            _write(self._subject, present)

    def install(self) -> None:
        """Make the average what the subject holds."""
        _write(self._subject, self.tensors)

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on from a checkpoint."""
        self.steps = steps
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])


def _copies(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@torch.no_grad()
def _write(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    present = module.state_dict()
    for name, tensor in tensors.items():
        present[name].copy_(tensor)
