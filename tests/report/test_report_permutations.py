"""What the report says of a gate whose rows are switched."""

from __future__ import annotations

import re

from report_protocols import BEFORE, CLEAN, WHOLE, evaluated, result, row, worst

from dwf.report.experts import experts
from dwf.report.rows import cumulative, effort, sees

ATTACKS = [{"kind": "pgd", "steps": 50}, {"kind": "apgd-ce", "steps": 100}]
HELD = row(
    "permutation-2-1",
    0.4,
    settings={"attacks": ATTACKS},
    on="all that are right under it",
    view={"kind": "Permutation", "permutation": [2, 1]},
)
WORST = row(
    "worst-permutation",
    0.3,
    settings={"attacks": ATTACKS},
    on="all that are right under it",
    view={"kind": "EveryPermutation", "held": 2, "of": 2},
)


def test_the_rows_say_which_permutation_was_held() -> None:
    assert sees(HELD) == "the whole model, its gate's rows held at 2 1"
    assert sees(WORST) == "the whole model, its gate's rows held: 2 of 2 permutations, one by one"
    assert effort(WORST) == "PGD 50, then APGD-CE 100"


def test_the_worst_permutation_stands_beside_the_attacks_on_the_whole() -> None:
    rows = [row("pgd", 0.5, on=CLEAN, view=WHOLE), row("pgd-eot20", 0.45, on=CLEAN, view=WHOLE), HELD, WORST]
    one = evaluated(result("moe", rows, [worst(0.3, rows)], gate=2))
    text = " ".join(re.sub(r"<[^>]*>", " ", str(experts([one]))).split())
    assert "worst-permutation" in text
    assert "pgd-eot20" in text
    assert "30.0" in text
    assert not cumulative(one, WORST)
    survivors = row("worst-permutation", 0.3, on=BEFORE, view={"kind": "EveryPermutation", "held": 2, "of": 2})
    assert cumulative(evaluated(result("full", [survivors], [worst(0.3, [survivors])], gate=2)), survivors)
