"""A mixture taken apart: experts with frozen routing (RA-E), routing alone (RA-R), each expert, and copies that hide less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from dwf.attacks import ApgdCe, Pgd
from dwf.core.errors import Refused
from dwf.evaluation import flags
from dwf.evaluation.attacked import Attacked
from dwf.evaluation.check import Check, Findings, Scope
from dwf.evaluation.experts import ExpertsAlone, Panel, Rerouting
from dwf.evaluation.flags import Alarms
from dwf.evaluation.permutations import switching
from dwf.evaluation.reweighed import Reweighed
from dwf.evaluation.sweep import Clean, FgsmSweep
from dwf.evaluation.threats import OneThreat
from dwf.evaluation.views import FrozenRouting, Softened, Surrogate, Temperature, WeightedLogits


class Moe(OneThreat):
    """Every row on all clean-correct images, so that each is a number of its own."""

    kind: Literal["moe"] = "moe"
    steps: int = Field(default=50, ge=1)
    apgd_steps: int = Field(default=100, ge=1)
    """Of the whole and of each expert, where the two are compared."""
    temperatures: tuple[tuple[Temperature, Temperature], ...] = ((1, 10), (1, 100), (10, 1), (10, 10), (10, 100))
    """Of the softened copies: (gate, experts)."""
    eot: int = Field(default=1, ge=1)
    """Gradients averaged a step, by every attack but FGSM; 20 or more for a random model."""

    @property
    def pgd(self) -> Pgd:
        """The plain attack of this threat."""
        return Pgd(threat=self.threat, steps=self.steps, draws=self.eot)

    @property
    def _apgd(self) -> ApgdCe:
        return ApgdCe(threat=self.threat, steps=self.apgd_steps, draws=self.eot)

    def checks(self, scope: Scope) -> Sequence[Check]:
        """Raises `Refused` for a model without experts."""
        if not scope.experts:
            raise Refused("protocol 'moe' attacks experts and routing, and this model has none; use protocol 'masking' or 'full'")
        return [
            Clean(),
            FgsmSweep((("fgsm", self.threat),)),
            Attacked("pgd", self.pgd, after=()),
            Attacked("apgd-ce", self._apgd, after=()),
            *self.mixture(scope, ()),
            *(Attacked(f"softened-{gate:g}-{experts:g}", self.pgd, Softened(gate, experts), after=()) for gate, experts in
              self.temperatures),
        ]  # fmt: skip

    def mixture(self, scope: Scope, after: tuple[str, ...] | None) -> list[Check]:
        """Attacks that only a mixture has, on all clean-correct images (`()`) or on survivors (`None`)."""
        return [
            Panel(self.pgd),
            Attacked("frozen-routing", self.pgd, FrozenRouting(), after=after),
            Rerouting("routing", self.pgd, after=after),
            ExpertsAlone(scope.experts, (self.pgd, self._apgd)),
            Attacked("weighted-logits", self.pgd, WeightedLogits(), after=after),
            Attacked("surrogate", self.pgd, Surrogate(1.0), after=after),
            Reweighed(self.threat, self.steps, after=after, draws=self.eot),
            *switching(scope, self.pgd, self._apgd, after),
        ]

    def alarms(self, findings: Findings) -> Alarms:
        """Whether the experts are worth their price, under the attacks that both have met."""
        return worth(findings, ("pgd", "apgd-ce"))


def worth(findings: Findings, rows: Sequence[str]) -> Alarms:
    """`dead_weight`: the mixture after `rows` against each expert after the same attacks, the most robust of them first."""
    alarms, facts = Alarms(), findings.facts
    names = [name.removesuffix("/robust") for name in facts if name.endswith("/robust")]
    if len(names) < 2:
        return alarms
    clean = findings.bits["clean"]
    robust = np.logical_and.reduce([clean, *(findings.bits[row] for row in rows)])
    for name in sorted(names, key=lambda name: -float(facts[f"{name}/robust"].mean())):
        alarms.note(flags.dead_weight((clean, facts[f"{name}/clean"]), (robust, facts[f"{name}/robust"]), name))
    return alarms
