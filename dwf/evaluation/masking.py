"""The alarms: is the accuracy under attack the model's strength, or the attack's weakness?

Each alarm compares rows on the same images (EVALUATION.md, "Alarms"). What sees less of the model than PGD, APGD-CE and APGD-T is
run on their survivors, beside as many further restarts as it costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil
from typing import Literal

import numpy as np
from pydantic import Field

from dwf.attacks import ApgdCe, Pgd, Square
from dwf.core.types import Threat
from dwf.evaluation import flags
from dwf.evaluation.attacked import Attacked
from dwf.evaluation.check import Check, Findings, Scope
from dwf.evaluation.flags import Alarms
from dwf.evaluation.gradients import ZeroGradient
from dwf.evaluation.standard import auto_pgd
from dwf.evaluation.statistics import LEVEL, Bits
from dwf.evaluation.sweep import Clean, FgsmSweep, PgdSweep
from dwf.evaluation.threats import OneThreat, label
from dwf.evaluation.transfer import transfer_sources
from dwf.evaluation.views import Softened, Temperature

RADII = (0.25, 0.5, 2.0)
"""Times the headline's: 2/255, 4/255 and 16/255 beside 8/255."""


class Masking(OneThreat):
    """All trust alarms at one threat. Every further protocol that looks for masking is made of these rows."""

    kind: Literal["masking"] = "masking"
    steps: int = Field(default=50, ge=1)
    """Of PGD; twice as many ask for convergence."""
    restarts: int = Field(default=3, ge=2)
    apgd_steps: int = Field(default=100, ge=1)
    targets: int = Field(default=9, ge=1)
    """Of APGD-T."""
    queries: int = Field(default=1000, ge=1)
    """Of Square, on the survivors of APGD-T."""
    eot: int = Field(default=1, ge=1)
    """Gradients averaged a step (PGD has rows without, too), and passes a query by Square; 20 or more for a random model."""
    temperatures: tuple[tuple[Temperature, Temperature], ...] = ((1, 10), (1, 100), (10, 1), (10, 10), (10, 100))
    """Of the softened copies: (gate, experts)."""

    @property
    def pgd(self) -> Pgd:
        """The plain attack of this threat."""
        return self._pgd_at(self.threat)

    def _pgd_at(self, threat: Threat) -> Pgd:
        return Pgd(threat=threat, steps=self.steps, draws=self.eot)

    def checks(self, scope: Scope) -> Sequence[Check]:
        """White-box attacks on everybody, then everything else on their survivors."""
        return [*self.white(scope), *self.blind(scope)]

    def white(self, scope: Scope) -> list[Check]:
        """Clean, FGSM, PGD at several radii, and APGD on the survivors of the headline."""
        threat = self.threat
        return [
            Clean(),
            ZeroGradient(),
            FgsmSweep((("fgsm", threat),)),
            *(Attacked(f"pgd-{label(other)}", self._pgd_at(other), after=()) for other in self.others()),
            Attacked(
                "pgd-huge", Pgd(threat=(huge := self.huge(scope)), steps=self.steps, step=huge.eps / 10, draws=self.eot), after=()
            ),
            PgdSweep(threat, self.pgd.step, (self.steps,), 2 * self.steps, self.restarts, self.eot),
            *auto_pgd(threat, scope, self.apgd_steps, self.targets, draws=self.eot, after=(f"pgd-{self.steps}",)),
        ]

    def others(self) -> list[Threat]:
        """The radii around the headline's, as far as they mean something."""
        radii = [self.eps * factor for factor in RADII]
        return [Threat(norm=self.norm, eps=eps) for eps in radii if self.norm == "l2" or eps < 1]

    def huge(self, scope: Scope) -> Threat:
        """Half of the pixel range: every image can become grey."""
        return Threat(norm=self.norm, eps=0.5 if self.norm == "linf" else 0.5 * scope.pixels**0.5)

    def blind(self, scope: Scope) -> list[Check]:
        """Softened copies, transfer and Square, each on the survivors of `white`, and the restarts that they are measured by."""
        after = self._everything(scope.classes)
        copies = [Attacked(_soft(t), self.pgd, Softened(*t), after=after) for t in self.temperatures] if scope.experts else []
        transfers = [Attacked(name, self.pgd, view, "transfer", after) for name, view in transfer_sources(scope)]
        square = Attacked("square", Square(threat=self.threat, queries=self.queries, draws=self.eot), kind="black", after=after)
        gradients = self._restarts(max(scope.every * len(self.temperatures), len(scope.surrogates)))
        budgets = {"restarts-gradient": gradients, "restarts-query": self._queries()}
        again = ApgdCe(threat=self.threat, steps=self.apgd_steps, draws=self.eot)
        further = [Attacked(name, again.model_copy(update={"restarts": n}), after=after) for name, n in budgets.items()]
        return [*further, *copies, *transfers, square]

    def _everything(self, classes: int) -> tuple[str, ...]:
        """Rows whose survivors are those of all of `white`: its last, for survivors of all others; with 2 classes every row."""
        if classes > 2:
            return ("apgd-t" if classes >= 4 else "apgd-dlr",)
        rows = [row for check in self.white(Scope(classes, 1)) for row in check.rows()]
        return tuple(row.name for row in rows if row.threat.norm == self.norm and 0 < row.threat.eps <= self.eps)

    def _restarts(self, attacks: float) -> int:
        """Of APGD-CE, for the price of so many PGD attacks."""
        return max(ceil(attacks * self.steps / self.apgd_steps), 1)

    def _queries(self) -> int:
        """Of APGD-CE, for the price of Square: a gradient costs two forward passes."""
        return max(ceil(self.queries / 2 / self.apgd_steps), 1)

    def alarms(self, findings: Findings) -> Alarms:
        """Every trust flag."""
        bits, alarms, clean = findings.bits, Alarms(), findings.bits["clean"]
        short = f"pgd-{self.steps}"
        long = f"pgd-{2 * self.steps}-eot1" if self.eot == 1 else f"pgd-{2 * self.steps}"
        alarms.note(flags.zero_gradient(findings.facts["zero_gradient"]))
        alarms.test(flags.fgsm_beats_pgd(bits["fgsm"], bits[short]))
        alarms.test(flags.fgsm_overfit(bits["fgsm"], bits[short]))
        restarted = bits[f"pgd-{2 * self.steps}x{self.restarts}"]
        alarms.test(*flags.convergence(bits[short], bits[long], restarted, (self.steps, 2 * self.steps), self.restarts))
        steps = sorted([(self.eps, short), *((other.eps, f"pgd-{label(other)}") for other in self.others())])
        pairs = list(pairwise((f"{eps:.4g}", bits[row] & clean) for eps, row in steps))
        alarms.test(*(flags.nonmonotone(a, b, (inner, outer), LEVEL / len(pairs)) for (inner, a), (outer, b) in pairs))
        alarms.test(flags.large_eps_survives(bits["pgd-huge"], findings.classes, "half of the pixel range"))
        survivors = union(bits, ["clean", *self._everything(findings.classes)])
        again, queried = bits["restarts-gradient"], bits["restarts-query"]
        sources = [row for row in bits if row.startswith("transfer-")]
        level = LEVEL / (1 + bool(sources))
        alarms.test(
            flags.blackbox_beats_whitebox("square", bits["square"], queried, survivors, level),
            flags.blackbox_beats_whitebox("transfer", union(bits, sources), again, survivors, level) if sources else None,
        )
        if soft := [row for row in bits if row.startswith("softened-")]:
            alarms.test(flags.softened_transfer(f"{len(soft)} temperatures", union(bits, soft), again, survivors))
        return alarms


def union(bits: Mapping[str, Bits], rows: Sequence[str]) -> Bits:
    """Who is right after all of these rows: they are compared together with restarts of the price of all of them."""
    right: Bits = np.logical_and.reduce([bits[row] for row in rows])
    return right


def _soft(temperatures: tuple[float, float]) -> str:
    return f"softened-{temperatures[0]:g}-{temperatures[1]:g}"
