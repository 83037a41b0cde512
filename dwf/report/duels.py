"""Contestants against a baseline, row by row: pairs of runs by their images, seeds of one preset by mean and deviation.

Across seeds nothing is tested. The images of one seed pair with those of another, but pooling such pairs would count each image
several times, and a few seeds are too few to say how training scatters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

from dwf.core.errors import Refused
from dwf.core.result import Result
from dwf.core.settings import nearest
from dwf.core.wording import listed
from dwf.report.layout import groups
from dwf.report.matching import Contestant, Judged, Row, bits_file, contestants, judge, remedy, unlike, unpaired
from dwf.report.paired import Paired, holm, paired
from dwf.report.reading import Evaluated, read_all

Verdict = Literal["better", "worse", "even", "not tested"]


@dataclass(frozen=True)
class Side:
    """A contestant in one row; accuracies are fractions in [0, 1]."""

    accuracy: float
    """Mean over seeds."""
    deviation: float | None
    """Sample standard deviation over seeds; None for one run."""


@dataclass(frozen=True)
class Line:
    """One row of a duel."""

    row: Row
    a: Side
    b: Side
    paired: Paired | None
    """None where a side has several seeds."""
    holm: float | None
    """McNemar's p, adjusted for all tests of the comparison."""

    @property
    def difference(self) -> float:
        """B minus A."""
        return self.paired.difference if self.paired else self.b.accuracy - self.a.accuracy

    @property
    def verdict(self) -> Verdict:
        """How B fares: even where the interval of the difference holds 0."""
        if self.paired is None:
            return "not tested"
        return "better" if self.paired.low > 0 else "worse" if self.paired.high < 0 else "even"


@dataclass(frozen=True)
class Duel:
    """One contestant against the baseline."""

    b: Contestant
    lines: tuple[Line, ...]

    @property
    def headline(self) -> Line:
        """The worst case that the protocol puts first; the clean row if it measures none."""
        return next((line for line in self.lines if line.row.kind == "worst_case"), self.lines[0])


@dataclass(frozen=True)
class Comparison:
    """One evaluation that all contestants share."""

    a: Contestant
    """The baseline."""
    duels: tuple[Duel, ...]
    also: tuple[str, ...] = ()
    """Other evaluations that the same runs share."""

    @property
    def name(self) -> str:
        """The evaluation's: `table3`, `table3-eps0.02`."""
        return self.a.seeds[0].one.name

    @property
    def result(self) -> Result:
        """Of the baseline; its protocol and images are everybody's."""
        return self.a.seeds[0].one.result

    @property
    def tests(self) -> int:
        """How many rows are tested, over all duels."""
        return sum(line.paired is not None for duel in self.duels for line in duel.lines)

    @property
    def contestants(self) -> tuple[Contestant, ...]:
        """The baseline first."""
        return self.a, *(duel.b for duel in self.duels)


def compare(folders: Sequence[Path], name: str | None = None) -> Comparison:
    """Runs against the first of them, on the evaluation `name` or the first by name that all of them share.

    Raises `Refused` where nothing can be paired: fewer than two runs, no common evaluation, other settings or images, no bits.
    """
    evaluated = read_all(folders)
    runs = [[one for one in evaluated if one.folder == folder] for folder in dict.fromkeys(one.folder for one in evaluated)]
    if len(runs) < 2:
        raise Refused(f"a comparison takes at least two runs and got {evaluated[0].run} alone; name a baseline, then its rivals")
    shared = [one.name for one in runs[0] if all(one.name in _names(run) for run in runs)]
    if name is not None and name not in shared:
        lacking = next(run[0] for run in runs if name not in _names(run))
        model = next((one for one in evaluated if one.name == name), None)
        todo = remedy(model, lacking) if model else nearest(name, sorted({one.name for one in evaluated}))
        raise Refused(f"run {lacking.folder} has no evaluation '{name}'; {todo}")
    if not shared:
        other = next(run for run in runs if runs[0][0].name not in _names(run))
        held = "; ".join(f"{run[0].run} has {listed(_names(run))}" for run in runs)
        raise Refused(f"the runs share no evaluation ({held}); {remedy(runs[0][0], other[0])}")
    refusals = []
    for candidate in shared if name is None else [name]:
        members = {one: [m for run in runs for m in run if m.name == one] for one in shared}
        try:
            judged = _pairable(members[candidate])
        except Refused as refusal:
            refusals.append(refusal)
            continue
        others = [one for one in shared if one != candidate]
        return _compared(judged, tuple(one for one in others if not any(unlike(members[one][0], m) for m in members[one])))
    raise refusals[0]


def comparisons(evaluated: Sequence[Evaluated]) -> list[Comparison]:
    """Every comparison that a report's evaluations allow; those without bits are left out."""
    found = []
    for group in groups(evaluated):
        alike: list[list[Judged]] = []
        for one in (judge(member) for member in group.members if bits_file(member).is_file()):
            home = next((members for members in alike if not unpaired(members[0], one)), None)
            if home is None:
                alike.append([one])
            else:
                home.append(one)
        found += [_compared(members) for members in alike if len(contestants(members)) > 1]
    return found


def without_bits(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """Evaluations that would have a partner if their bits were there."""
    return [
        one
        for group in groups(evaluated)
        for one in group.members
        if not bits_file(one).is_file() and any(other is not one and not unlike(one, other) for other in group.members)
    ]


def _compared(judged: Sequence[Judged], also: tuple[str, ...] = ()) -> Comparison:
    a, *rivals = contestants(judged)
    if not rivals:
        raise Refused(f"the runs are {a.name} and nothing else; name a run of another preset, or read their mean with dwf report")
    rows = list(a.seeds[0].bits)
    found = [[_paired(a, b, row) for row in rows] for b in rivals]
    adjusted = iter(holm([test.p for tests in found for test in tests if test]))
    return Comparison(
        a,
        tuple(
            Duel(
                b,
                tuple(
                    Line(row, _side(a, row), _side(b, row), test, next(adjusted) if test else None)
                    for row, test in zip(rows, tests, strict=True)
                ),
            )
            for b, tests in zip(rivals, found, strict=True)
        ),
        also,
    )


def _paired(a: Contestant, b: Contestant, row: Row) -> Paired | None:
    single = len(a.seeds) == len(b.seeds) == 1
    return paired(a.seeds[0].bits[row], b.seeds[0].bits[row]) if single else None


def _side(who: Contestant, row: Row) -> Side:
    shares = [float(judged.bits[row].mean()) for judged in who.seeds]
    return Side(mean(shares), stdev(shares) if len(shares) > 1 else None)


def _names(run: Sequence[Evaluated]) -> list[str]:
    return [one.name for one in run]


def _pairable(members: Sequence[Evaluated]) -> list[Judged]:
    """The evaluations with their bits; raises `Refused` with the first difference between the baseline's and another."""
    for other in members:
        _same(members[0], other, unlike(members[0], other))
    judged = [judge(one) for one in members]
    for one in judged:
        _same(members[0], one.one, unpaired(judged[0], one))
    return judged


def _same(a: Evaluated, b: Evaluated, difference: str) -> None:
    if difference:
        raise Refused(f"{a.run} and {b.run} cannot be compared on {a.name}: they differ in {difference}; {remedy(a, b)}")
