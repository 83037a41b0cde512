"""The images that DWF learns from: clean ones, FGSM with a drawn radius, PGD with a drawn number of steps.

Savings and easy beginnings, none of them the paper's: FGSM from a random start with steps of 1.25 eps (Wong et al., ICLR 2020); a
number of steps that grows (curriculum adversarial training, Cai et al., IJCAI 2018) or a radius that does; one gradient for both
attacks where both start at the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal, get_args

from torch import Tensor, nn

from dwf.attacks import Fgsm, Pgd
from dwf.attacks.engine import frozen, input_gradient
from dwf.attacks.losses import cross_entropy
from dwf.core.types import Threat
from dwf.training.plan import Draw

Regime = Literal["clean", "fgsm", "pgd"]
REGIMES: tuple[Regime, ...] = get_args(Regime)
Start = Literal["image", "uniform"]


@dataclass(frozen=True)
class Regimes:
    """How the images of each regime are made; the victim ascended is the caller's."""

    radii: tuple[float, ...]
    """One is drawn for each FGSM batch."""
    fgsm_start: Start
    threat: Threat
    """Of PGD."""
    step: float
    """Step size of PGD in the units of its threat."""
    steps: tuple[int, ...]
    """One number is drawn for each PGD batch."""
    pgd_start: Start
    steps_ramp: float = 0.0
    """Share of the phase over which the number of steps grows from 1 to what is drawn."""
    radius_ramp: float = 0.0
    """Share of the phase over which all radii, and PGD's step size with them, grow from 0."""

    def images(self, regimes: Sequence[Regime], victim: nn.Module, batch: Draw) -> list[Tensor]:
        """Images (B, C, H, W) for each regime; the first gradient is taken once where both attacks would take the same."""
        gradient = None
        if self.shares(regimes):
            with frozen(victim):
                gradient = input_gradient(cross_entropy(victim, batch.y), batch.x)
        makers = {"fgsm": self.fgsm, "pgd": self.pgd}
        return [batch.x if regime == "clean" else makers[regime](victim, batch, gradient) for regime in regimes]

    def fgsm(self, victim: nn.Module, batch: Draw, gradient: Tensor | None = None) -> Tensor:
        """One step; `gradient`: that at the images, where it is known."""
        threat = Threat(eps=batch.random.choice(self.radii) * self._grown(batch))
        return Fgsm(threat=threat, start=self.fgsm_start)(victim, batch.x, batch.y, batch.noise, gradient=gradient)

    def pgd(self, victim: nn.Module, batch: Draw, gradient: Tensor | None = None) -> Tensor:
        """Several steps; `gradient`: that at the images, where it is known."""
        threat, step, steps = self.pgd_strength(batch)
        attack = Pgd(threat=threat, step=step, steps=steps, start=self.pgd_start)
        return attack(victim, batch.x, batch.y, batch.noise, gradient=gradient)

    def pgd_strength(self, batch: Draw) -> tuple[Threat, float, int]:
        """Threat, step size and number of steps of this batch."""
        steps, grown = batch.random.choice(self.steps), self._grown(batch)
        if batch.progress < self.steps_ramp:
            steps = min(steps, 1 + int(steps * batch.progress / self.steps_ramp))
        return self.threat.model_copy(update={"eps": self.threat.eps * grown}), self.step * grown, steps

    def shares(self, regimes: Sequence[Regime]) -> bool:
        """Whether FGSM's gradient is also PGD's first."""
        return {"fgsm", "pgd"} <= set(regimes) and self.fgsm_start == self.pgd_start == "image"

    @property
    def mean_steps(self) -> float:
        """Of PGD, over draws and ramp: on the ramp each of 1 ... K comes for the same time, (K + 1) / 2 in the mean."""
        return mean(steps - self.steps_ramp * (steps - 1) / 2 for steps in self.steps)

    def gradients(self, regimes: Sequence[Regime]) -> float:
        """Passes that the attacks on one batch of each regime cost."""
        each = {"clean": 0.0, "fgsm": 1.0, "pgd": self.mean_steps}
        return sum(each[regime] for regime in regimes) - self.shares(regimes)

    def _grown(self, batch: Draw) -> float:
        return batch.progress / self.radius_ramp if batch.progress < self.radius_ramp else 1.0
