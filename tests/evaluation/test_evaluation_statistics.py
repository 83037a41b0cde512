from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwf.core.types import Threat
from dwf.evaluation.check import Row
from dwf.evaluation.statistics import exceeds, score, wilson, worst_cases


def bits(text: str) -> np.ndarray:
    return np.array([c == "1" for c in text])


def test_wilson_is_the_textbook_interval() -> None:
    # Newcombe (1998), table I, method 3: 81 of 263 is .2553 to .3662.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_estimate_and_stays_in_0_1(case: tuple[int, int]) -> None:
    hits, n = case
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n + 1e-12
    assert hits / n - 1e-12 <= high <= 1


def test_a_score_carries_its_n() -> None:
    total = score(bits("1101"))
    assert (total.accuracy, total.n) == (0.75, 4)


def test_exceeds_needs_the_margin_and_the_evidence() -> None:
    a, b = np.ones(1000, bool), np.ones(1000, bool)
    b[:30] = False
    assert exceeds(a, b, 0.01)
    assert not exceeds(a, b, 0.03), "an estimate at the margin is not above it"
    assert not exceeds(b, a, 0.0)
    few = bits("1" * 20)
    assert not exceeds(few, few & (np.arange(20) > 3), 0.01), "four of four is 6 %, no evidence at 5 %"
    assert exceeds(few, few & (np.arange(20) > 4), 0.01)


def test_exceeds_is_paired() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(2000) < 0.5
    b = a.copy()
    b[np.flatnonzero(a)[:25]] = False
    assert exceeds(a, b, 0.01), "25 samples lost and none gained is certain, although the two marginals overlap widely"


def test_worst_cases_never_mix_radii_or_norms() -> None:
    rows = [
        Row("small", Threat(eps=0.01), 1, 1, 0.01),
        Row("large", Threat(eps=0.05), 1, 1, 0.05),
        Row("round", Threat(norm="l2", eps=0.01), 1, 1, 0.01),
        Row("clean", Threat(eps=0), 0, 0, 0.0),
    ]
    found = {"small": bits("0111"), "large": bits("1011"), "round": bits("1110"), "clean": bits("1110")}
    cases = {(case.norm, case.eps): (case, survived) for case, survived in worst_cases(rows, found, ("linf", 0.05))}
    assert list(cases) == [("linf", 0.05), ("l2", 0.01), ("linf", 0.01)], "headline first"
    assert cases["linf", 0.05][0].attacks == ("small", "large")
    assert cases["linf", 0.05][1].tolist() == [False, False, True, False], "wrong on the image itself is wrong"
    assert cases["linf", 0.01][1].tolist() == [False, True, True, False]
    assert cases["l2", 0.01][0].accuracy == 0.75
