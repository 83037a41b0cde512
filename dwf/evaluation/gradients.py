"""Does the model give an attack anything to go by?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dwf.attacks.engine import finite, frozen, input_gradient
from dwf.attacks.losses import cross_entropy
from dwf.core.types import Batch
from dwf.evaluation.check import Outcome, Row, Standing
from dwf.evaluation.victim import Victim


@dataclass(frozen=True)
class ZeroGradient:
    """The fact `zero_gradient`: of the samples that are right, those whose fp32 input gradient is exactly zero. No rows."""

    def rows(self) -> Sequence[Row]:
        """None."""
        return []

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """One gradient of the original."""
        right = standing.after(())
        with frozen(victim.module):
            gradient = finite(input_gradient(cross_entropy(victim.original, batch.y), batch.x))
        zero = (gradient.flatten(1) == 0).all(1).float()
        victim.bill("zero_gradient")
        return Outcome({}, facts={"zero_gradient": torch.where(right, zero, torch.nan)})
