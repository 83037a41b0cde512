"""Plain training on clean images: the net that every defence is measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch.nn.functional as F
from torch import nn

from dwf.core.settings import Settings
from dwf.core.types import Spec
from dwf.models import Backbone, ResNet
from dwf.training.optim import Recipe
from dwf.training.plan import Batches, Group, Learner, Passes, Phase, Update


class Plain(Settings):
    """Cross-entropy on clean images."""

    kind: Literal["plain"] = "plain"
    backbone: Backbone = ResNet()
    recipe: Recipe = Recipe()

    def model(self, spec: Spec) -> nn.Module:
        """One backbone."""
        return self.backbone(spec)

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """One phase."""
        return [single_phase("train", model, self.recipe, clean_round)]

    def cost(self) -> Mapping[str, Passes]:
        """One pass."""
        return {"train": Passes(1, 1)}


def clean_round(model: nn.Module, batches: Batches) -> Iterator[Update]:
    """One epoch of CE(f(x), y)."""
    for batch in batches:
        yield Update(F.cross_entropy(model(batch.x), batch.y))


def single_phase(
    name: str,
    model: nn.Module,
    recipe: Recipe,
    round: Callable[[nn.Module, Batches], Iterator[Update]],
    ignores: tuple[str, ...] = (),
) -> Phase:
    """A phase in which one learner moves all of one net."""
    learner, rounds = Learner([Group(list(model.parameters()))], recipe.optimizer, recipe.schedule), recipe.epochs * recipe.parts
    phase = Phase(name, model, rounds, recipe.batch, {"all": learner}, round, parts=recipe.parts, ignores=ignores)
    return replace(phase, goal="sa") if round is clean_round else phase
