"""The reference AutoAttack (Croce and Hein, ICML 2020), by the package `pyautoattack`. Nothing else here is called AutoAttack."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dwf.attacks.engine import finite, input_gradient
from dwf.attacks.losses import cross_entropy
from dwf.core.errors import Refused
from dwf.core.seeds import derive
from dwf.core.types import Batch, Threat
from dwf.evaluation.attacked import take
from dwf.evaluation.check import Check, Findings, Outcome, Row, Scope, Standing
from dwf.evaluation.flags import Alarms
from dwf.evaluation.sweep import Clean
from dwf.evaluation.threats import OneThreat
from dwf.evaluation.victim import Victim

Version = Literal["standard", "rand"]
TARGETS = 9


class AutoAttack(OneThreat):
    """APGD-CE, APGD-T, FAB-T and Square by the authors' code, in fp32 on the original model; `rand` for random models."""

    kind: Literal["autoattack"] = "autoattack"
    version: Version = "standard"

    def checks(self, scope: Scope) -> Sequence[Check]:
        """The reference, after the clean images. Raises `Refused` where the package is missing or the classes are too few."""
        if scope.classes < (least := 4 if self.version == "standard" else 3):
            raise Refused(
                f"the {self.version} AutoAttack needs {least} classes and the data have {scope.classes}; use protocol 'full'"
            )
        return [Clean(), Reference(self.threat, self.version, min(TARGETS, scope.classes - 1))]

    def alarms(self, findings: Findings) -> Alarms:
        """None."""
        return Alarms()


@dataclass(frozen=True)
class Reference:
    """One row."""

    threat: Threat
    version: Version
    targets: int = TARGETS
    """Wrong classes that APGD-T and FAB-T try; the authors' number, or all where there are fewer."""

    def rows(self) -> Sequence[Row]:
        """Named `autoattack`."""
        settings = {
            "version": self.version,
            "code": "pyautoattack",
            **({} if self.targets == TARGETS else {"targets": self.targets}),
        }
        return [Row("autoattack", self.threat, 100, 1, 0.0, settings=settings, precision="float32")]

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """On the images that are right; what it returns is judged like any other attack's."""
        try:
            from pyautoattack import AutoAttack as Authors
        except ImportError:
            raise Refused("protocol 'autoattack' needs the authors' code; install it with: pip install pyautoattack") from None
        right = standing.after(())
        rows = right.nonzero().squeeze(1)
        if len(rows):
            rest = take(batch, rows)
            model = victim.through(NchwCopy(victim.module).eval())
            finite(input_gradient(cross_entropy(model, rest.y), rest.x))  # the authors' code takes NaN for a gradient of 0
            with torch.random.fork_rng():
                authors = Authors(
                    model,
                    norm="Linf" if self.threat.norm == "linf" else "L2",
                    eps=self.threat.eps,
                    version=self.version,
                    seed=derive(victim.seed, "autoattack", int(batch.index[0])) % 2**31,
                    device=rest.x.device,
                )
                for attack in (authors.apgd_targeted, authors.fab):
                    attack.n_target_classes = self.targets
                found = authors.run_standard_evaluation(rest.x.contiguous(), rest.y, batch_size=len(rest.y))
            images = found[0] if isinstance(found, tuple) else found
            right = right.index_put((rows,), victim.verdict(images, rest.x, rest.y, self.threat))
        victim.bill("autoattack")
        return Outcome({"autoattack": right})


class NchwCopy(nn.Module):
    """A copy in NCHW memory, which the authors' code takes for granted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            tensor.data = tensor.data.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits."""
        out: Tensor = self.model(x)
        return out
