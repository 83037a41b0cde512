"""What an attacker without the weights can do: images made on another model, and Square by queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from dwf.attacks import Pgd, Square
from dwf.evaluation.attacked import Attacked
from dwf.evaluation.check import Check, Findings, Scope
from dwf.evaluation.flags import Alarms
from dwf.evaluation.sweep import Clean
from dwf.evaluation.threats import OneThreat
from dwf.evaluation.views import Another, Expert, View


class Transfer(OneThreat):
    """PGD on each surrogate; without one, on the model's own experts one by one; and Square."""

    kind: Literal["transfer"] = "transfer"
    steps: int = Field(default=50, ge=1)
    queries: int = Field(default=5000, ge=1)
    eot: int = Field(default=1, ge=1)
    """Gradients averaged a step, and passes a query; 20 or more for a random model."""

    def checks(self, scope: Scope) -> Sequence[Check]:
        """One row a source, and Square."""
        pgd = Pgd(threat=self.threat, steps=self.steps, draws=self.eot)
        sources = transfer_sources(scope)
        return [
            Clean(),
            *(Attacked(name, pgd, view, "transfer", after=()) for name, view in sources),
            Attacked("square", Square(threat=self.threat, queries=self.queries, draws=self.eot), kind="black", after=()),
        ]

    def alarms(self, findings: Findings) -> Alarms:
        """None: there is no white-box attack here to compare with. Protocol `masking` has both."""
        return Alarms()


def transfer_sources(scope: Scope) -> list[tuple[str, View]]:
    """(row, what its images are made on): the surrogates, or the experts, which then stand in for somebody else's model."""
    if scope.surrogates:
        return [(f"transfer-{name}", Another(name)) for name in scope.surrogates]
    return [(f"transfer-expert-{number + 1}", Expert(number)) for number in range(scope.experts)]
