"""Checks that look behind a mixture's decision: its routing, and its experts one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dwf.attacks import Pgd
from dwf.core.types import Attack, Batch, Classifier, Routed, Threat
from dwf.evaluation.attacked import attacked, on_whom, take
from dwf.evaluation.check import Outcome, Row, Standing
from dwf.evaluation.victim import Victim
from dwf.evaluation.views import WHOLE, Expert


@dataclass(frozen=True)
class Rerouting:
    """RA-R (METHODS 0): ascend the cross-entropy of the routing's own choice on the clean image; judge the whole system.

    The fact `rerouted` is the share of attacked images whose favourite expert changed, by the original.
    """

    name: str
    attack: Pgd
    after: tuple[str, ...] | None = None
    temperatures: tuple[float, ...] = (1.0, 10.0)
    """Of the surrogate: a gate that is sure of itself has no gradient at 1."""

    def rows(self) -> Sequence[Row]:
        """One row."""
        attack, view = self.attack, {"kind": "routing", "temperatures": list(self.temperatures)}
        settings = {"view": view, "draws": attack.draws, "on": on_whom(self.after)}
        return [Row(self.name, attack.threat, attack.steps, attack.restarts, attack.step, settings=settings)]

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """The labels are the experts of the clean images."""
        before = standing.asked(self.attack.threat, self.after)
        moved = torch.full(batch.y.shape, torch.nan)
        rows = before.nonzero().squeeze(1)
        if len(rows):
            settled = victim.settled
            rest, routed, original = take(batch, rows), settled.routed, cast(Routed, settled.module)
            with torch.no_grad():
                favourite = original.route(rest.x).weights.argmax(1)
            right, strayed = torch.ones_like(favourite, dtype=torch.bool), torch.zeros_like(favourite, dtype=torch.bool)
            for temperature in self.temperatures:
                routing = victim.through(_scores(routed, temperature), victim.shares(rest.x).every)
                images = self.attack(routing, rest.x, favourite, victim.noise(rest, self.name, str(temperature)))
                right = right & victim.verdict(images, rest.x, rest.y, self.attack.threat)
                with torch.no_grad():
                    strayed = strayed | (original.route(images).weights.argmax(1) != favourite)
            before = before.index_put((rows,), right)
            moved[rows.cpu()] = strayed.float().cpu()
        victim.bill(self.name)
        return Outcome({self.name: before}, facts={"rerouted": moved})


@dataclass(frozen=True)
class ExpertsAlone:
    """Every expert attacked by itself, on the images that it names rightly: what the system makes of what was made there, and what
    the expert would be alone.

    Rows `expert-i`: the system's verdict; an image that the expert is wrong about already counts as not attacked. Facts
    `expert-i/clean` and `expert-i/robust`: the expert's own, of all images.
    """

    experts: int
    attacks: tuple[Attack, ...]
    """Of one threat; each is for those who survived the ones before."""

    @property
    def _threat(self) -> Threat:
        return self.attacks[0].threat

    def rows(self) -> Sequence[Row]:
        """One row an expert."""
        settings = {"attacks": [attack.model_dump(mode="json") for attack in self.attacks]}  # type: ignore[attr-defined]
        return [
            Row(f"expert-{i + 1}", self._threat, 0, 1, 0.0, settings={**settings, "view": {"kind": "Expert", "number": i}})
            for i in range(self.experts)
        ]

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """One expert after the other."""
        bits: dict[str, Tensor] = {}
        facts: dict[str, Tensor] = {}
        original = cast(Routed, victim.module)
        for number, row in enumerate(self.rows()):
            own = _own(original, number)
            exact = victim.through(own, victim.shares(batch.x).alone[number])
            with torch.no_grad():
                right = own(batch.x).argmax(1) == batch.y
            facts[f"{row.name}/clean"] = right.float()
            system = standing.after(())
            for attack in self.attacks:
                rows = right.nonzero().squeeze(1)
                if len(rows) == 0:
                    break
                rest = take(batch, rows)
                view = Expert(number)
                noise = victim.noise(rest, row.name, type(attack).__name__)
                still, images = attacked(attack, view, victim, rest, noise, original=exact)
                with torch.no_grad():
                    right = right.index_put((rows,), own(images).argmax(1) == rest.y)
                system = system.index_put((rows,), system[rows] & still)
            facts[f"{row.name}/robust"] = right.float()
            bits[row.name] = system
            victim.bill(row.name)
        return Outcome(bits, facts=facts)


def _scores(routed: Routed, temperature: float) -> Classifier:
    """The routing as a classifier of experts: log-weights (B, K)."""

    def classifier(x: Tensor) -> Tensor:
        scores = routed.surrogate(x, temperature).weights.float().clamp(min=1e-30).log()
        # A routing that never looks at the image, such as a uniform gate's, has the gradient zero and no way to be led astray.
        return scores if scores.requires_grad else scores + 0 * x.float().sum((1, 2, 3)).unsqueeze(1)

    return classifier


def _own(original: Routed, number: int) -> Classifier:
    return lambda x: original.expert(x, number)


@dataclass(frozen=True)
class Panel:
    """What other ways of asking the same experts would give, on the images and on those that PGD made against the whole system.

    Facts `oracle/...`: some expert is right. Facts `uniform/...`: the experts' mean is. No rows.
    """

    attack: Pgd

    def rows(self) -> Sequence[Row]:
        """None."""
        return []

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """Facts for `clean` and `pgd`, and the images."""
        _, images = attacked(self.attack, WHOLE, victim, batch, victim.noise(batch))
        facts: dict[str, Tensor] = {}
        with torch.no_grad():
            for kind, x in (("clean", batch.x), ("pgd", images)):
                opinions = cast(Routed, victim.module).route(x).opinions
                facts[f"oracle/{kind}"] = (opinions.argmax(2) == batch.y[:, None]).any(1).float()
                facts[f"uniform/{kind}"] = (opinions.mean(1).argmax(1) == batch.y).float()
        victim.bill("panel")
        return Outcome({}, {"pgd": images}, facts)
