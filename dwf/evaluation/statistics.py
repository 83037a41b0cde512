"""Intervals and paired comparisons: no accuracy travels without them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dwf.core.result import Interval, Score, Share, WorstCase
from dwf.evaluation.check import Row

LEVEL = 0.05
"""Of an alarm's test. An alarm that compares several pairs shares it among them (Bonferroni)."""
Bits = NDArray[np.bool_]
"""(N,) still classified correctly."""


def score(bits: Bits) -> Score:
    """Accuracy with its 95 % Wilson interval."""
    return Score(accuracy=float(bits.mean()), ci95=wilson(int(bits.sum()), len(bits)), n=len(bits))


def share(asked: NDArray[np.float64]) -> Share | None:
    """The mean of a fact (N,) of 0 and 1, over those that were asked (not NaN); None if nobody was."""
    known = asked[np.isfinite(asked)]
    if len(known) == 0:
        return None
    return Share(value=float(known.mean()), ci95=wilson(int(known.sum()), len(known)), n=len(known))


def wilson(hits: int, n: int) -> Interval:
    """95 % Wilson score interval of hits / n."""
    from scipy.stats import binomtest  # late, here and below: a second that training need not wait

    low, high = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def exceeds(a: Bits, b: Bits, margin: float, level: float = LEVEL) -> bool:
    """Is a's accuracy above b's, on the same samples, by more than `margin`, and surely above it at all?

    Paired and one-sided: the exact McNemar test at `level`; at 5 % it is the lower 95 % bound of the difference lying above zero.
    """
    gained, lost = int((a & ~b).sum()), int((b & ~a).sum())
    if (gained - lost) / len(a) <= margin:
        return False
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5, alternative="greater").pvalue) < level


def worst_cases(rows: Sequence[Row], bits: dict[str, Bits], headline: tuple[str, float]) -> list[tuple[WorstCase, Bits]]:
    """Per (norm, radius): robust only if right on the image itself and after every attack of the norm inside the radius.

    Headline first, then by norm and radius.
    """
    threats = {(row.threat.norm, row.threat.eps, row.threat.scale) for row in rows if row.threat.eps > 0}
    clean = [row.name for row in rows if row.threat.eps == 0]
    cases = []
    for norm, eps, scale in sorted(threats, key=lambda threat: (threat[:2] != headline, threat[:2], threat[2] or ())):
        inside = [row.name for row in rows if (row.threat.norm, row.threat.scale) == (norm, scale) and 0 < row.threat.eps <= eps]
        survived = np.logical_and.reduce([bits[name] for name in [*clean, *inside]])
        total = score(survived)
        case = WorstCase(
            norm=norm,
            eps=eps,
            accuracy=total.accuracy,
            ci95=total.ci95,
            attacks=tuple(inside),
            space="pixel" if scale is None else "normalized",
        )
        cases.append((case, survived))
    return cases
