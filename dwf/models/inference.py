"""The fast copy of a model that attacks ascend: folded batch-norm, channels_last, bf16, no gradient for any parameter.

Attacks ask for input gradients only and ask very often; benchmarks/joint_step.py measures what this saves. Generation on the copy
may be rounded; the verdict is always the original's, in fp32.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from dwf.models.layers import ConvNorm


class AttackCopy(nn.Module):
    """A copy of `model` in eval mode for attacks: (B, C, H, W) float32 in [0, 1] -> logits (B, classes) float32.

    The model may go on training: `refresh` takes over its present weights and statistics. A mixture's `route` and `surrogate`
    are those of `inner`.
    """

    def __init__(self, model: nn.Module, precision: torch.dtype = torch.float32, *, batch_statistics: bool = False) -> None:
        """`batch_statistics`: normalise by the attacked batch, as in training mode, instead of the running statistics."""
        super().__init__()
        self._source = [model]  # in a list: the original is not a sub-module of its copy
        self.inner = copy.deepcopy(model).requires_grad_(False)
        self._folds: list[tuple[ConvNorm, nn.Conv2d]] = []
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
        for pair, conv in self._folds:
            weight, bias = pair.folded()
            conv.weight.copy_(weight)
            assert conv.bias is not None
            conv.bias.copy_(bias)
        return self

    def _fold(self, source: nn.Module, target: nn.Module) -> nn.Module:
        """Replace every ConvNorm below `target` by one convolution, remembering whose weights it folds."""
        if isinstance(source, ConvNorm):
            folded = copy.deepcopy(source.conv).requires_grad_(False)
            folded.bias = nn.Parameter(torch.zeros_like(folded.weight[:, 0, 0, 0]), requires_grad=False)
            self._folds.append((source, folded))
            return folded
        for name, child in source.named_children():
            setattr(target, name, self._fold(child, target.get_submodule(name)))
        return target

    def _unfolded(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Pairs (original, copy) of every tensor that is not inside a folded pair."""
        ours = dict(self.inner.named_parameters()) | dict(self.inner.named_buffers())
        theirs = dict(model.named_parameters()) | dict(model.named_buffers())
        return [(theirs[name], tensor) for name, tensor in ours.items() if name in theirs]


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
