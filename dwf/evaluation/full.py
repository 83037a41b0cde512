"""All of our own attacks at one threat, every alarm, and one headline worst case.

The reference AutoAttack is no part of it: it is what this is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dwf.evaluation.check import Check, Findings, Scope
from dwf.evaluation.flags import Alarms
from dwf.evaluation.masking import Masking
from dwf.evaluation.moe import Moe, worth


class Full(Masking):
    """`masking`, and `moe` for a mixture. Rows at other radii serve the alarms; the headline is the worst case at `eps`."""

    kind: Literal["full"] = "full"  # type: ignore[assignment]

    def checks(self, scope: Scope) -> Sequence[Check]:
        """White-box, then the mixture's own attacks on the survivors, then what sees less of the model."""
        inside = Moe(norm=self.norm, eps=self.eps, steps=self.steps, apgd_steps=self.apgd_steps, eot=self.eot)
        mixture = inside.mixture(scope, after=None) if scope.experts else []
        return [*self.white(scope), *mixture, *self.blind(scope)]

    def alarms(self, findings: Findings) -> Alarms:
        """All trust flags, and what the experts are worth."""
        alarms = super().alarms(findings)
        for entry in worth(findings, (f"pgd-{self.steps}", "apgd-ce")).raised:  # apgd-ce follows that row alone
            alarms.note(entry)
        return alarms
