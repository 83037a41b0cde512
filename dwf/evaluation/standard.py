"""Linf 2/255, 4/255, 8/255 and L2 0.5, each by PGD-50, APGD-CE and APGD-T: the sober protocol of our own attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dwf.attacks import ApgdCe, ApgdDlr, ApgdT, Pgd
from dwf.core.settings import Length, PixelFraction, Settings
from dwf.core.types import Threat
from dwf.evaluation.attacked import Attacked
from dwf.evaluation.check import Check, Findings, Scope
from dwf.evaluation.flags import Alarms
from dwf.evaluation.sweep import Clean
from dwf.evaluation.threats import label

Radius = Annotated[PixelFraction, Field(gt=0)]


class Standard(Settings):
    """Each attack runs on the survivors of all before it at that threat, smaller radii of the norm included."""

    kind: Literal["standard"] = "standard"
    linf: tuple[Radius, ...] = (2 / 255, 4 / 255, 8 / 255)
    l2: tuple[Annotated[Length, Field(gt=0)], ...] = (0.5,)
    steps: int = Field(default=50, ge=1)
    """Of PGD."""
    apgd_steps: int = Field(default=100, ge=1)
    targets: int = Field(default=9, ge=1)
    """Of APGD-T."""
    eot: int = Field(default=1, ge=1)
    """Gradients averaged a step; 20 or more for a random model."""

    @model_validator(mode="after")
    def _some_threat(self) -> Standard:
        if not self.linf and not self.l2:
            raise ValueError("'linf' and 'l2' are both empty; give at least one radius")
        labels = [label(threat) for threat in self.threats()]
        if twins := [name for name in labels if labels.count(name) > 1]:
            raise ValueError(f"two radii would share the rows '{twins[0]}'; give radii that differ in their first four digits")
        return self

    @property
    def threat(self) -> Threat:
        """The headline: the largest Linf radius, or the largest L2 radius where there is no other."""
        return Threat(eps=max(self.linf)) if self.linf else Threat(norm="l2", eps=max(self.l2))

    def checks(self, scope: Scope) -> Sequence[Check]:
        """Radii in ascending order: what falls to a small one need not be attacked at a large one."""
        return [Clean(), *(check for threat in self.threats() for check in self._attacks(threat, scope))]

    def threats(self) -> list[Threat]:
        """Every norm and radius, Linf first, in ascending order."""
        radii: dict[Literal["linf", "l2"], tuple[float, ...]] = {"linf": self.linf, "l2": self.l2}
        return [Threat(norm=norm, eps=eps) for norm, values in radii.items() for eps in sorted(set(values))]

    def _attacks(self, threat: Threat, scope: Scope) -> list[Check]:
        tag = label(threat)
        pgd = Pgd(threat=threat, steps=self.steps, draws=self.eot)
        auto = auto_pgd(threat, scope, self.apgd_steps, self.targets, f"-{tag}", draws=self.eot)
        return [Attacked(f"pgd-{self.steps}-{tag}", pgd), *auto]

    def alarms(self, findings: Findings) -> Alarms:
        """None: rows on survivors cannot be compared with each other. Protocol `masking` raises them."""
        return Alarms()


def auto_pgd(
    threat: Threat,
    scope: Scope,
    steps: int,
    targets: int,
    suffix: str = "",
    *,
    draws: int = 1,
    after: tuple[str, ...] | None = None,
) -> list[Check]:
    """APGD-CE on the survivors of the rows `after`, then APGD-T (APGD-DLR for 3 classes, nothing for 2) on those of everything."""
    checks: list[Check] = [Attacked(f"apgd-ce{suffix}", ApgdCe(threat=threat, steps=steps, draws=draws), after=after)]
    if scope.classes >= 4:
        checks.append(Attacked(f"apgd-t{suffix}", ApgdT(threat=threat, steps=steps, targets=targets, draws=draws)))
    elif scope.classes == 3:
        checks.append(Attacked(f"apgd-dlr{suffix}", ApgdDlr(threat=threat, steps=steps, draws=draws)))
    return checks
