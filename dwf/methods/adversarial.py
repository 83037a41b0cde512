"""Adversarial training of one net: FGSM-AT (Goodfellow et al., ICLR 2015) and PGD-AT (Madry et al., ICLR 2018).

The paper's baselines use half of each batch adversarial. Warning: FGSM without a random start at a radius as large as 8/255 can
overfit catastrophically (Wong et al., ICLR 2020): the net stays right on FGSM images and falls to zero on PGD. The journal shows
it, because validation records FGSM and PGD accuracy side by side; `attack.start = "uniform"` is the remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from dwf.attacks import Fgsm, Pgd
from dwf.core.settings import Settings
from dwf.core.types import Spec
from dwf.methods.plain import single_phase
from dwf.models import AttackCopy, Backbone, ResNet
from dwf.training.optim import Recipe
from dwf.training.plan import Batches, Passes, Phase, Update


class Adversarial(Settings):
    """Cross-entropy on images attacked with the present weights, in eval mode."""

    kind: Literal["adversarial"] = "adversarial"
    backbone: Backbone = ResNet()
    attack: Annotated[Fgsm | Pgd, Field(discriminator="kind")] = Pgd()
    share: float = Field(default=1.0, gt=0, le=1)
    """Share of each batch that is attacked: 1 trains on adversarial images only, 0.5 is the paper's baseline."""
    recipe: Recipe = Recipe()

    def model(self, spec: Spec) -> nn.Module:
        """One backbone."""
        return self.backbone(spec)

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """One phase."""
        return [single_phase("train", model, self.recipe, self._round)]

    def cost(self) -> Mapping[str, Passes]:
        """The attack's passes on its share of the batch, and one to learn."""
        forwards, backwards = self.attack.passes
        return {"train": Passes(self.share * forwards + 1, self.share * backwards + 1)}

    def _round(self, model: nn.Module, batches: Batches) -> Iterator[Update]:
        victim = AttackCopy(model, batches.precision)
        for batch in batches:
            count = max(1, round(self.share * len(batch.y)))
            attacked = self.attack(victim.refresh(), batch.x[:count], batch.y[:count], batch.noise.first(count))
            yield Update(F.cross_entropy(model(torch.cat([attacked, batch.x[count:]])), batch.y))
