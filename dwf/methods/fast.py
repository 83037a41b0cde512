"""Fast adversarial training (Wong et al., ICLR 2020): FGSM from a random start, and a short schedule with one high peak.

min_theta CE(f(x'), y),  x' = clip(project(x + u + 1.25 eps sign(grad CE(f(x + u), y)))),  u uniform in the ball.
It can still overfit catastrophically (right on FGSM images, zero on PGD): the journal shows `fgsm` beside `ra` every round, and
`train.select = "best_val"`, as in the presets, keeps the round before. Fidelity: docs/methods/fast.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch.nn.functional as F
from torch import nn

from dwf.attacks import Fgsm
from dwf.core.settings import Settings
from dwf.core.types import Spec, Threat
from dwf.methods.plain import single_phase
from dwf.models import AttackCopy, Backbone, ResNet
from dwf.training.optim import Cosine, Recipe, Sgd
from dwf.training.plan import Batches, Passes, Phase, Update


class Fast(Settings):
    """Cross-entropy on FGSM images from a uniform start, with steps of 1.25 eps, for few epochs."""

    kind: Literal["fast"] = "fast"
    backbone: Backbone = ResNet()
    threat: Threat = Threat()
    recipe: Recipe = Recipe(epochs=15, optimizer=Sgd(learning_rate=0.2), schedule=Cosine(warmup=0.5))
    """The rate rises for half of the time, as in the released code, and falls to zero."""

    def model(self, spec: Spec) -> nn.Module:
        """One backbone."""
        return self.backbone(spec)

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """One phase."""
        return [single_phase("train", model, self.recipe, self._round)]

    def cost(self) -> Mapping[str, Passes]:
        """One to attack, one to learn."""
        return {"train": Passes(2, 2)}

    def _round(self, model: nn.Module, batches: Batches) -> Iterator[Update]:
        attack, victim = Fgsm(threat=self.threat, start="uniform"), AttackCopy(model, batches.precision)
        for batch in batches:
            attacked = attack(victim.refresh(), batch.x, batch.y, batch.noise)
            yield Update(F.cross_entropy(model(attacked), batch.y))
