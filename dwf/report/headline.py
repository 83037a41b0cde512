"""The one number of a run: the lowest worst case that any of its evaluations found at the headline threat.

Numbers of different images are never put together: each set of images has a lowest worst case of its own, and says whose it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dwf.core.result import WorstCase
from dwf.report.layout import worst_cases
from dwf.report.reading import Evaluated

Ball = tuple[str, float]
"""(norm, radius), the radius rounded so that 8/255 is one ball however it was written."""

_USUAL: Ball = ("linf", round(8 / 255, 6))


class Verdict(NamedTuple):
    """The lowest worst case on one set of images."""

    case: WorstCase
    by: Evaluated
    """The evaluation that found it."""
    among: tuple[Evaluated, ...]
    """All that attacked these images at this threat, `by` included."""


def by_name(evaluated: Sequence[Evaluated]) -> dict[str, list[Evaluated]]:
    """The evaluations of each run, in page order."""
    runs: dict[str, list[Evaluated]] = {}
    for one in evaluated:
        runs.setdefault(one.run, []).append(one)
    return runs


def ball(norm: str, eps: float) -> Ball:
    """A threat as a key."""
    return norm, round(eps, 6)


def headline(run: Sequence[Evaluated]) -> Ball | None:
    """The threat that most evaluations put first; of several, Linf 8/255, else the largest Linf radius. None without any."""
    heads = Counter(ball(head.norm, head.eps) for one in run if not one.standardised and (head := one.headline))
    return max(heads, key=lambda b: (heads[b], b == _USUAL, b[0] == "linf", b[1])) if heads else None


def case_at(one: Evaluated, threat: Ball) -> WorstCase | None:
    """The worst case of an evaluation at a threat, where it has one to quote."""
    return next((case for case in worst_cases(one) if not one.standardised and ball(case.norm, case.eps) == threat), None)


def verdicts(run: Sequence[Evaluated], threat: Ball) -> list[Verdict]:
    """One for each set of images that were attacked at the threat, most images first."""
    found: dict[tuple[str, str, int, str], list[tuple[WorstCase, Evaluated]]] = {}
    for one in run:
        if case := case_at(one, threat):
            data = one.result.dataset
            found.setdefault((data.sha256, data.split, data.n, data.indices), []).append((case, one))
    lowest = [(*min(cases, key=lambda found: found[0].accuracy), cases) for cases in found.values()]
    made = [Verdict(case, by, tuple(one for _, one in cases)) for case, by, cases in lowest]
    return sorted(made, key=lambda verdict: -verdict.by.result.dataset.n)


def chosen(evaluated: Sequence[Evaluated], rank: Callable[[Evaluated], tuple[float, ...]]) -> list[Evaluated]:
    """One evaluation for each run and headline threat, the one with the lowest `rank`, in page order: no figure stands twice."""
    found: dict[tuple[str, Ball | None, bool], Evaluated] = {}
    for one in evaluated:
        key = one.run, ball(one.headline.norm, one.headline.eps) if one.headline else None, one.standardised
        found[key] = min(found.get(key, one), one, key=rank)
    return list(found.values())
