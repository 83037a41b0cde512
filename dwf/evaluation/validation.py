"""What training is told of its progress: clean, FGSM and PGD accuracy on a fixed part of the validation split, never test data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from pydantic import Field
from torch import nn

from dwf.attacks import Fgsm, Pgd
from dwf.core import ranks
from dwf.core.seeds import Noise
from dwf.core.settings import Length, Settings
from dwf.core.types import Batch, Threat, default_step
from dwf.models import AttackCopy


class Validation(Settings):
    """How each round is scored. FGSM far above PGD at one radius is catastrophic overfitting, and the journal shows both."""

    samples: int = Field(default=500, ge=1)
    """Images of the validation split; all of it when there are fewer."""
    threat: Threat = Threat()
    steps: int = Field(default=10, ge=1)
    step: Length = Field(default_factory=default_step)

    def scorer(
        self, batches: Callable[[], Iterator[Batch]], precision: torch.dtype, seed: int
    ) -> Callable[[nn.Module], Mapping[str, float]]:
        """A function of the model: accuracies `sa`, `fgsm`, `ra` in [0, 1] and `n`; the verdict is the model's own, in fp32.

        Under torchrun each rank takes its part of every batch, and all know the whole result.
        """
        fgsm, pgd = Fgsm(threat=self.threat), Pgd(threat=self.threat, steps=self.steps, step=self.step)

        def score(model: nn.Module) -> Mapping[str, float]:
            right = {"sa": 0, "fgsm": 0, "ra": 0, "n": 0}
            training = model.training
            model.eval()
            victim = AttackCopy(model, precision)
            for batch in map(ranks.dealt, batches()):
                if not len(batch.y):
                    continue
                noise = Noise(seed, batch.index)
                images = {
                    "sa": batch.x,
                    "fgsm": fgsm(victim, batch.x, batch.y, noise),
                    "ra": pgd(victim, batch.x, batch.y, noise),
                }
                with torch.no_grad():
                    for name, x in images.items():
                        right[name] += int((model(x).argmax(1) == batch.y).sum())
                right["n"] += len(batch.y)
            model.train(training)
            found = ranks.total(right)
            return {**{name: found[name] / found["n"] for name in ("sa", "fgsm", "ra")}, "n": found["n"]}

        return score
