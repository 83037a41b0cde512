"""A gate whose rows are switched at random, attacked in expectation and permutation by permutation.

A model that draws anew at every pass is no harder to fool than its draws are: what looks like robustness may be that the attack
followed one draw and the verdict another. Each permutation by itself is a deterministic model, attacked and judged as such; what
survives in the worst of them owes nothing to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial
from typing import Any

import torch
from torch import Tensor

from dwf.attacks import ApgdCe, Pgd
from dwf.core.types import Attack, Batch, Threat
from dwf.evaluation.attacked import Attacked, attacked, on_whom, take
from dwf.evaluation.check import Check, Outcome, Row, Scope, Standing
from dwf.evaluation.victim import Victim
from dwf.evaluation.views import WHOLE

DRAWS = 20
"""Gradients averaged a step in the row with EoT."""


def switching(scope: Scope, pgd: Pgd, further: ApgdCe, after: tuple[str, ...] | None) -> list[Check]:
    """PGD on the expectation, and both attacks on every permutation; nothing for a model that switches nothing.

    `after`: as for `Moe.mixture`, () for numbers of their own, None for survivors.
    """
    if not scope.permutations:
        return []
    expected = Attacked(f"pgd-eot{DRAWS}", pgd.model_copy(update={"draws": DRAWS}), after=after)
    held = (pgd.model_copy(update={"draws": 1}), further.model_copy(update={"draws": 1}))  # each is deterministic
    return [expected, EveryPermutation(scope.permutations, held, survivors=after is None)]


@dataclass(frozen=True)
class EveryPermutation:
    """The model with its switch held, attacked and judged once for each permutation; and who is right under all of them."""

    permutations: tuple[tuple[int, ...], ...]
    attacks: tuple[Attack, ...]
    """Of one threat; each is for those who survived the ones before."""
    survivors: bool = False
    """False: all who are right under the permutation, for numbers of their own. True: who survived all so far, permutations too."""

    @property
    def _threat(self) -> Threat:
        return self.attacks[0].threat

    def rows(self) -> Sequence[Row]:
        """One row a permutation, and `worst-permutation`."""
        attacks = [attack.model_dump(mode="json") for attack in self.attacks]  # type: ignore[attr-defined]
        on = on_whom(None) if self.survivors else "all that are right under it"
        views: dict[str, dict[str, Any]] = {
            _name(one): {"kind": "Permutation", "permutation": [number + 1 for number in one]} for one in self.permutations
        }
        views["worst-permutation"] = {
            "kind": "EveryPermutation",
            "held": len(self.permutations),
            "of": factorial(len(self.permutations[0])),
        }
        common = {"attacks": attacks, "on": on}
        return [Row(name, self._threat, 0, 1, 0.0, settings={**common, "view": view}) for name, view in views.items()]

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """One deterministic model after the other."""
        bits = {}
        everyone = torch.ones_like(batch.y, dtype=torch.bool)
        worst = standing.under(self._threat) if self.survivors else everyone
        for permutation in self.permutations:
            held = victim.fixed(permutation)
            right = self._survivors(held, batch, worst if self.survivors else everyone, _name(permutation))
            worst = worst & right
            bits[_name(permutation)] = right
            victim.bill(_name(permutation))
        return Outcome({**bits, "worst-permutation": worst})

    def _survivors(self, held: Victim, batch: Batch, right: Tensor, row: str) -> Tensor:
        """(B,) bool: of those who are `right`, who is so under this permutation, and after every attack on it."""
        right = right & held.verdict(batch.x, batch.x, batch.y, Threat(eps=0))
        for attack in self.attacks:
            rows = right.nonzero().squeeze(1)
            if len(rows) == 0:
                break
            rest = take(batch, rows)
            still, _ = attacked(attack, WHOLE, held, rest, held.noise(rest, row, type(attack).__name__))
            right = right.index_put((rows,), still)
        return right


def _name(permutation: tuple[int, ...]) -> str:
    """`permutation-2-1-3`: which expert's weight goes to the first, the second, the third."""
    return "-".join(["permutation", *(str(number + 1) for number in permutation)])
