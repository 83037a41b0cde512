"""The paper's Table 3: SA; FGSM eps .01 ... .09; PGD-10 ... 50; PGD-100 with 3 restarts (MS); PGD-100 with EoT (A).

PGD's radius is not stated in the paper. Default 8/255; eps = 0.02 is the value that its numbers fit best (METHODS 6.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dwf.core.settings import Length, PixelFraction, Settings
from dwf.core.types import Threat, usual_step
from dwf.evaluation import flags
from dwf.evaluation.check import Check, Findings, Scope
from dwf.evaluation.flags import Alarms
from dwf.evaluation.sweep import Clean, FgsmSweep, PgdSweep, ascending


class Table3(Settings):
    """White-box, pixel space, cross-entropy, on the complete model: gate, experts and mixing."""

    kind: Literal["table3"] = "table3"
    eps: Annotated[PixelFraction, Field(gt=0)] = 8 / 255
    """Radius of all PGD rows and of one more FGSM row; the headline threat."""
    step: Length | None = None
    """PGD step size; None is min(2/255, eps/4)."""
    fgsm_eps: Annotated[tuple[Annotated[PixelFraction, Field(gt=0)], ...], Field(min_length=1)] = (
        0.01,
        0.02,
        0.03,
        0.04,
        0.05,
        0.06,
        0.07,
        0.08,
        0.09,
    )
    steps: Annotated[tuple[int, ...], Field(min_length=1)] = (10, 20, 30, 40, 50)
    """Step counts of the PGD rows with one start."""
    final: int = 100
    """Steps of the rows MS and A."""
    restarts: int = Field(default=3, ge=1)
    eot: int = Field(default=1, ge=1)
    """Gradients averaged a step in row A. The paper's 1 equals plain PGD on a deterministic model."""
    space: Literal["pixel", "normalized"] = "pixel"
    """"normalized": all radii and steps are lengths in the standardised space, as the paper's may have been (METHODS 6.7); eps then
    means eps times each channel's standard deviation in pixels, inside the same pixel box."""

    @model_validator(mode="after")
    def _ascending(self) -> Table3:
        if not ascending((*self.steps, self.final)):
            raise ValueError(f"'steps' {list(self.steps)} and then 'final' {self.final} must ascend strictly, from 1 up")
        return self

    @property
    def threat(self) -> Threat:
        """The headline."""
        return Threat(eps=self.eps)

    def checks(self, scope: Scope) -> Sequence[Check]:
        """Three pieces of work for all rows."""
        scale = scope.deviations if self.space == "normalized" else None
        radii = [(f"fgsm-{eps:g}", eps) for eps in self.fgsm_eps] + [("fgsm", self.eps)]
        step = usual_step(self.threat) if self.step is None else self.step
        return [
            Clean(),
            FgsmSweep(tuple((name, Threat(eps=eps, scale=scale)) for name, eps in radii)),
            PgdSweep(Threat(eps=self.eps, scale=scale), step, self.steps, self.final, self.restarts, self.eot),
        ]

    def alarms(self, findings: Findings) -> Alarms:
        """Those that these rows can raise."""
        bits, short = findings.bits, f"pgd-{self.steps[-1]}"
        once = f"pgd-{self.final}-eot1" if self.eot == 1 else f"pgd-{self.final}"
        alarms = Alarms()
        alarms.test(flags.fgsm_beats_pgd(bits["fgsm"], bits[short]))
        alarms.test(flags.fgsm_overfit(bits["fgsm"], bits[short]))
        restarted = bits[f"pgd-{self.final}x{self.restarts}"]
        alarms.test(*flags.convergence(bits[short], bits[once], restarted, (self.steps[-1], self.final), self.restarts))
        return alarms
