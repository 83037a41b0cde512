"""The check made of any attack: ascend a view of the model, judge with the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dwf.attacks.engine import project
from dwf.core.seeds import Noise
from dwf.core.types import Attack, Batch, Classifier
from dwf.evaluation.check import Outcome, Row, Standing
from dwf.evaluation.victim import Victim
from dwf.evaluation.views import WHOLE, View, Whole


@dataclass(frozen=True)
class Attacked:
    """One attack, one row.

    A sample that the row does not attack keeps the bit that it had: the row's accuracy is that of everything it follows and itself.
    """

    name: str
    attack: Attack
    view: View = WHOLE
    kind: Literal["white", "black", "transfer"] = "white"
    after: tuple[str, ...] | None = None
    """Attack who is right after these rows; () is everyone whose clean image is right, None everyone who survived all so far."""

    def rows(self) -> Sequence[Row]:
        """One row, with every setting of attack and view."""
        attack = self.attack
        settings: dict[str, Any] = {
            **attack.model_dump(mode="json", exclude={"threat"}),  # type: ignore[attr-defined]
            "view": {"kind": type(self.view).__name__, **asdict(self.view)},  # type: ignore[call-overload]
            "on": on_whom(self.after),
        }
        steps = getattr(attack, "steps", getattr(attack, "queries", 1))
        return [
            Row(
                self.name,
                attack.threat,
                steps,
                getattr(attack, "restarts", 1),
                float(getattr(attack, "step", None) or 0.0),
                settings=settings,
                kind=self.kind,
            )
        ]

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """Only those who stand are attacked."""
        before = standing.asked(self.attack.threat, self.after)
        rows = before.nonzero().squeeze(1)
        if len(rows) == 0:
            victim.bill(self.name)
            return Outcome({self.name: before})
        right, _ = attacked(self.attack, self.view, victim, rest := take(batch, rows), victim.noise(rest, self.name))
        victim.bill(self.name)
        return Outcome({self.name: before.index_put((rows,), right)})


def on_whom(after: tuple[str, ...] | None) -> str:
    """Whom a row attacks, in the words of the result file."""
    return "survivors of all before" if after is None else f"survivors of {', '.join(after) or 'the clean image'}"


def take(batch: Batch, rows: Tensor) -> Batch:
    """Some samples of a batch."""
    return Batch(batch.x[rows], batch.y[rows], batch.index[rows])


def attacked(
    attack: Attack,
    view: View,
    victim: Victim,
    batch: Batch,
    noise: Noise,
    *,
    original: Classifier | None = None,
    goal: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(who is still right (B,) by the whole original, the adversarial images (B, C, H, W)).

    `original`: what the view is a fast copy of; None is the model itself for the whole, and nothing for other views. Whoever the
    copy alone took for broken is attacked once more, on the original: the copy's rounding saves no sample. `goal`: the class that
    `attack` must reach; None if any error will do.
    """

    def broken(logits: Tensor) -> Tensor:
        named = logits.argmax(1)
        return named != batch.y if goal is None else named == goal

    shown = view(victim, batch.x)
    images = attack(shown, batch.x, batch.y, noise)
    exact = original if original is not None else victim.original if isinstance(view, Whole) else None
    if exact is not None:
        with torch.no_grad():
            there = project(images, batch.x, attack.threat)
            saved = broken(shown(there)) & ~broken(exact(there))
        again = saved.nonzero().squeeze(1)
        if len(again):
            rest = take(batch, again)
            images = images.index_put((again,), attack(exact, rest.x, rest.y, noise.take(again)))
    return victim.verdict(images, batch.x, batch.y, attack.threat), images
