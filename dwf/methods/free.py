"""Free-AT, "Adversarial Training for Free!" (Shafahi et al., NeurIPS 2019): one backward pass moves weights and perturbation.

Each batch is replayed m times; in every replay, with the gradients of one and the same pass at x' = clip_[0,1](x + delta):
theta <- theta - lr grad_theta CE(f(x'), y);  delta <- clip_[-eps,eps](delta + eps sign(grad_x' CE(f(x'), y))).
delta goes on from replay to replay and from batch to batch. Fidelity: docs/methods/free.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dwf.attacks.engine import sign
from dwf.core.settings import PixelFraction, Settings
from dwf.core.types import Spec
from dwf.methods.plain import single_phase
from dwf.models import Backbone, ResNet
from dwf.training.optim import Recipe
from dwf.training.plan import Batches, Passes, Phase, Update


class Free(Settings):
    """Cross-entropy on images whose perturbation rides along with every step; each batch is stepped on m times."""

    kind: Literal["free"] = "free"
    backbone: Backbone = ResNet()
    eps: PixelFraction = 8 / 255
    """Linf radius of the perturbation, and the size of its steps."""
    replays: int = Field(default=8, ge=1)
    """The paper's m: steps on each batch."""
    recipe: Recipe = Recipe(epochs=25)
    """An epoch is m passes over the images: 25 of them, replayed 8 times, cost what 200 epochs of plain training cost."""

    def model(self, spec: Spec) -> nn.Module:
        """One backbone."""
        return self.backbone(spec)

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """One phase."""
        return [single_phase("train", model, self.recipe, self._round)]

    def cost(self) -> Mapping[str, Passes]:
        """One pass a replay."""
        return {"train": Passes(self.replays, self.replays)}

    def _round(self, model: nn.Module, batches: Batches) -> Iterator[Update]:
        delta: Tensor | None = None  # from zero with every round, so that a resumed run needs to know nothing of it
        for batch in batches:
            delta = torch.zeros_like(batch.x) if delta is None else delta
            for _ in range(self.replays):
                # The attacked image is the leaf: a pixel that the box cuts off keeps its gradient and can turn back.
                attacked = (batch.x + delta).clamp(0, 1).requires_grad_()
                yield Update(F.cross_entropy(model(attacked), batch.y), also=(attacked,))
                assert attacked.grad is not None
                delta = (delta + self.eps * sign(attacked.grad)).clamp(-self.eps, self.eps)
