"""All runs in one small table: SA, PGD-100 with three restarts, AutoAttack, the worst case of `full`, and the alarms.

Each number may come from another evaluation, and so from other images: n stands beside every one of them. What nobody ran is said
to be missing, and a number of changed settings is marked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dwf.core.result import Score
from dwf.core.wording import short_threat
from dwf.report.coverage import coverage, raised
from dwf.report.headline import Ball, ball, by_name, case_at, headline
from dwf.report.layout import PAPER
from dwf.report.reading import Evaluated

COLUMNS = ("SA", "PGD-100x3", "AutoAttack", "full, worst case")
NOT_RUN = "not run"
MARK = "*"
"""Beside a number that was measured with other settings than the protocol's own."""

_PGD = "pgd-100x3"
_PREFERRED = (PAPER, "masking", "full")
"""Which PGD row is quoted where several were run on equally many images."""


@dataclass(frozen=True)
class Entry:
    """One number, with where it comes from."""

    score: Score
    by: Evaluated
    changed: str = ""
    """`pgd-20x3 by full-steps10`, where that is not what the column's heading promises."""


@dataclass(frozen=True)
class Line:
    """One run."""

    run: str
    method: str
    entries: tuple[Entry | None, ...]
    """In the order of COLUMNS."""
    alarms: str
    """`1 worth; 12 of 12 asked`."""


@dataclass(frozen=True)
class Overview:
    """The runs on one data set at one threat."""

    dataset: str
    split: str
    threat: Ball
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        """`All runs on cifar10, test split, Linf 8/255`."""
        return f"All runs on {self.dataset}, {self.split} split, {short_threat(*self.threat)}"

    @property
    def remarks(self) -> list[str]:
        """What the table leaves out, a sentence each."""
        entries = [entry for line in self.lines for entry in line.entries if entry]
        said = []
        if changed := dict.fromkeys(entry.changed for entry in entries if entry.changed):
            said.append(f"{MARK} measured with other settings than the protocol's own: {', '.join(changed)}.")
        if len({entry.by.result.dataset.n for entry in entries}) > 1:
            said.append("Numbers of different n are of different images: part of their difference is the images'.")
        return said


def overviews(evaluated: Iterable[Evaluated]) -> list[Overview]:
    """One table for each data set and threat; none where no evaluation has a worst case.

    A threat that only `table3` attacked, such as its second radius, has the paper's table and none here, unless it is all there is.
    """
    places: dict[tuple[str, str], list[Evaluated]] = {}
    for one in evaluated:
        places.setdefault((one.result.dataset.name, one.result.dataset.split), []).append(one)
    return [
        Overview(name, split, threat, tuple(_line(run, threat) for run in by_name(members).values()))
        for (name, split), members in places.items()
        for threat in _threats(members)
    ]


def _threats(members: Sequence[Evaluated]) -> list[Ball]:
    heads = [ball(one.headline.norm, one.headline.eps) for one in members if one.headline and one.protocol != PAPER]
    main = headline(members)
    return list(dict.fromkeys([main, *heads])) if main else []


def _line(run: Sequence[Evaluated], threat: Ball) -> Line:
    most = max(run, key=lambda one: one.result.clean.n)
    cells = (Entry(most.result.clean, most), _pgd(run, threat), _autoattack(run, threat), _full(run, threat))
    return Line(most.run, most.method, cells, alarms(run))


def alarms(run: Sequence[Evaluated]) -> str:
    """`none; 4 of 8 asked`."""
    kinds, asked = [flag.class_ for flag in raised(run).values()], coverage(run)
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("trust", "worth") if kind in kinds)
    return f"{counts or 'none'}; {len(asked.asked)} of {len(asked.asked) + len(asked.missing)} asked"


def _pgd(run: Sequence[Evaluated], threat: Ball) -> Entry | None:
    found = [
        Entry(entry, one, f"{entry.name} by {one.name}" if one.tag or entry.name != _PGD else "")
        for one in run
        for entry in one.result.attacks
        if re.fullmatch(r"pgd-\d+x\d+", entry.name) and ball(entry.norm, entry.eps) == threat and entry.space == "pixel"
    ]
    order = {name: place for place, name in enumerate(_PREFERRED)}
    return min(found, key=lambda e: (bool(e.changed), -e.score.n, order.get(e.by.protocol, len(order))), default=None)


def _autoattack(run: Sequence[Evaluated], threat: Ball) -> Entry | None:
    rows = ((one, entry) for one in run for entry in one.result.attacks if entry.name == "autoattack")
    return _most(Entry(entry, one, one.tag and one.name) for one, entry in rows if ball(entry.norm, entry.eps) == threat)


def _full(run: Sequence[Evaluated], threat: Ball) -> Entry | None:
    cases = ((one, case_at(one, threat)) for one in run if one.protocol == "full" and not one.standardised)
    return _most(
        Entry(Score(accuracy=case.accuracy, ci95=case.ci95, n=one.result.dataset.n), one, one.tag and one.name)
        for one, case in cases
        if case
    )


def _most(entries: Iterable[Entry]) -> Entry | None:
    """One with the protocol's own settings before any other, and of those the one of most images."""
    return min(entries, key=lambda entry: (bool(entry.changed), -entry.score.n), default=None)
