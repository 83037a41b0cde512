"""What is proven beside what is attacked: radii inside which the answer cannot change, and the attacks of `standard` around them.

A certificate is a lower bound of the robust accuracy, an attack an upper one. A proven image that an attack breaks is an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dwf.attacks.engine import frozen
from dwf.core.settings import Length
from dwf.core.types import Batch, Certifiable, Threat
from dwf.evaluation import flags
from dwf.evaluation.check import Check, Findings, Outcome, Row, Scope, Standing
from dwf.evaluation.flags import Alarms
from dwf.evaluation.standard import Radius, Standard
from dwf.evaluation.threats import label
from dwf.evaluation.victim import Victim
from dwf.models.bounds import Norm
from dwf.models.certificates import distance

NORMS: tuple[Norm, ...] = ("l2", "linf")


class Certified(Standard):
    """A certified radius for every image, in L2 and Linf, by Lipschitz bounds; and PGD, APGD-CE and APGD-T around it."""

    kind: Literal["certified"] = "certified"  # type: ignore[assignment]
    linf: tuple[Radius, ...] = (0.5 / 255, 1 / 255, 2 / 255)
    l2: tuple[Annotated[Length, Field(gt=0)], ...] = (0.05, 0.1, 0.25)

    def checks(self, scope: Scope) -> Sequence[Check]:
        """The proof first: it costs a forward pass."""
        clean, *attacks = super().checks(scope)
        return [clean, Proof(tuple(self.threats())), *attacks]

    def alarms(self, findings: Findings) -> Alarms:
        """Whether an attack broke what was proven."""
        alarms = Alarms()
        for name in map(label, self.threats()):
            attacked = [bits for row, bits in findings.bits.items() if row.endswith(f"-{name}")]
            alarms.note(flags.certificate_broken(findings.facts[f"certified-{name}"], attacked, name))
        return alarms


@dataclass(frozen=True)
class Proof:
    """Facts `certified-...`: which images are right and proven to stay so at each threat. Radii for both norms. No rows."""

    threats: tuple[Threat, ...]

    def rows(self) -> Sequence[Row]:
        """None."""
        return []

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """By the original, in fp32. Raises `Refused` for a model that has no bounds to offer."""
        right = standing.after(())
        with frozen(victim.module), torch.no_grad():
            radii: dict[str, Tensor] = {norm: torch.where(right, proven(victim.module, batch.x, norm), 0.0) for norm in NORMS}
        victim.bill("certified")
        facts = {f"certified-{label(one)}": (radii[one.norm] >= one.eps).float() for one in self.threats}
        return Outcome({}, facts=facts, radii=radii)


def proven(model: nn.Module, x: Tensor, norm: Norm) -> Tensor:
    """(B,) radii inside which the model's answer to x (B, C, H, W) in [0, 1] cannot change.

    By the model's own proof, or by the bounds of a single net's logits; never more than the pixel box is wide. Raises `Refused`
    where there is neither.
    """
    pixels = x[0].numel()
    radii = model.certified(x, norm) if isinstance(model, Certifiable) else distance(model(x), model, norm, pixels)
    return radii.clamp(max=1.0 if norm == "linf" else math.sqrt(pixels))
