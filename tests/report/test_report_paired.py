"""The statistics of two runs, image by image: Newcombe's interval, McNemar's test, Holm's correction."""

from math import comb

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest

from dwf.report.paired import holm, mcnemar, newcombe, paired

counts = st.tuples(*[st.integers(0, 300)] * 4).filter(any)
"""Images that both get right, only the first, only the second, neither."""


@pytest.mark.parametrize(
    ("table", "bounds"),
    [((20, 12, 2, 16), (0.0562, 0.3292)), ((59, 6, 16, 80), (-0.1186, -0.0046)), ((1, 1, 7, 12), (-0.5069, -0.0256))],
)
def test_the_interval_is_the_published_one(table, bounds):
    """Newcombe (1998); Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8."""
    assert newcombe(*table) == pytest.approx(bounds, abs=6e-5)


@given(counts)
def test_the_interval_holds_the_estimate(table):
    _, first, second, _ = table
    low, high = newcombe(*table)
    assert -1 <= low <= (first - second) / sum(table) <= high <= 1
    assert high - low > 0


@given(counts)
def test_the_interval_turns_with_the_sides(table):
    both, first, second, neither = table
    low, high = newcombe(*table)
    assert newcombe(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-12)


@given(counts, st.integers(2, 50))
def test_more_of_the_same_images_narrow_the_interval(table, times):
    low, high = newcombe(*table)
    narrow_low, narrow_high = newcombe(*(times * number for number in table))
    assert narrow_high - narrow_low < high - low


@given(counts)
def test_pairs_that_agree_narrow_the_interval(table):
    both, first, second, neither = table
    assume(both * neither - first * second > sum(table) / 2)
    n = sum(table)
    ends = [binomtest(hits, n).proportion_ci(0.95, method="wilson") for hits in (both + first, both + second)]
    (low_1, high_1), (low_2, high_2) = ends
    p_1, p_2 = (both + first) / n, (both + second) / n
    independent = np.hypot(p_1 - low_1, high_2 - p_2) + np.hypot(high_1 - p_1, p_2 - low_2)
    low, high = newcombe(*table)
    assert high - low < independent


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_fair_coin(a, b):
    few, n = min(a, b), a + b
    tail = 2 * sum(comb(n, k) for k in range(few + 1)) / 2**n
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(min(1.0, tail))


def test_holm_of_a_family_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(ps):
    adjusted = holm(ps)
    for p, q in zip(ps, adjusted, strict=True):
        assert p <= q <= min(1.0, len(ps) * p) or p == q
    ranked = [adjusted[i] for i in sorted(range(len(ps)), key=lambda i: ps[i])]
    assert ranked == sorted(ranked)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_paired_counts_the_images(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    found = paired(a, b)
    assert (found.only_a, found.only_b) == (pairs.count((True, False)), pairs.count((False, True)))
    assert found.difference == pytest.approx(b.mean() - a.mean())
    assert found.low <= found.difference <= found.high
    back = paired(b, a)
    assert back[:3] == pytest.approx((-found.difference, -found.high, -found.low), abs=1e-12)
    assert back.p == found.p
