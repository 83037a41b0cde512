"""Two classifiers on the same images: the difference of their accuracies with its interval, McNemar's test, Holm's correction.

The images make a table of four counts: both right, only A, only B, both wrong. Two independent intervals would ignore that the same
images are hard for both; the pairs keep it.

Interval: Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data", Statistics
in Medicine 17:2635-2650 (1998), method 10. Each accuracy's distance to its Wilson bound is squared and added, less twice their
product times the correlation of the two classifiers, which is corrected for continuity.
Test: McNemar (Psychometrika 12:153-157, 1947), exact: were both equally good, each image that only one of them gets right would
be a fair coin. Correction: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics
6:65-70 (1979), valid however the tests depend on each other, as the rows of one protocol do.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Bits = NDArray[np.bool_]
"""(N,) still classified correctly."""


class Paired(NamedTuple):
    """B against A on n shared images; differences are B minus A, fractions in [-1, 1]."""

    difference: float
    low: float
    high: float
    """Bounds of the 95 % interval."""
    only_a: int
    only_b: int
    """Images that just one of the two gets right."""
    p: float
    """Exact McNemar, two-sided."""


def paired(a: Bits, b: Bits) -> Paired:
    """a, b: (N,) bits of A and B for the same images in the same order, N at least 1."""
    both, only_a, only_b = int((a & b).sum()), int((a & ~b).sum()), int((b & ~a).sum())
    low, high = newcombe(both, only_b, only_a, len(a) - both - only_a - only_b)
    return Paired((only_b - only_a) / len(a), low, high, only_a, only_b, mcnemar(only_a, only_b))


def newcombe(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """95 % interval of the first's share minus the second's. The counts: right for both, for just one of them, for neither."""
    n = both + first + second + neither
    below_1, above_1 = _reach(both + first, n)
    below_2, above_2 = _reach(both + second, n)
    phi = _correlation(both, first, second, neither)
    middle = (first - second) / n
    low = middle - _hypotenuse(below_1, above_2, phi)
    high = middle + _hypotenuse(above_1, below_2, phi)
    return max(low, -1.0), min(high, 1.0)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p; 1 where the two never disagree."""
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p of each test of a family: below .05 it may be called decided, with at most 5 % risk of one error in the family."""
    adjusted, largest = [1.0] * len(ps), 0.0
    for rank, test in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[test]))
        adjusted[test] = largest
    return adjusted


def _reach(hits: int, n: int) -> tuple[float, float]:
    """How far the Wilson bounds lie below and above hits / n."""
    low, high = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return max(hits / n - float(low), 0.0), max(float(high) - hits / n, 0.0)


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Of the two classifiers' bits, a positive one corrected for continuity; 0 where one of them never or always succeeds."""
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    excess: float = both * neither - first * second
    if excess > 0:
        excess = max(excess - (both + first + second + neither) / 2, 0.0)
    return excess / sqrt(margins) if margins else 0.0


def _hypotenuse(x: float, y: float, phi: float) -> float:
    """Of a triangle whose sides x and y enclose an angle with cosine phi; rounding may not push it below zero."""
    return sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))
