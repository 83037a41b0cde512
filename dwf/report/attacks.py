"""Every attack of every evaluation with all of its settings, and every worst case with the attacks behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from markupsafe import Markup

from dwf.core.result import AttackEntry
from dwf.report.markup import joined, table, tag
from dwf.report.reading import Evaluated
from dwf.report.wording import ABSENT, count, decimal, duration, interval, percent, plural, threat

_HEADER = (
    "Attack",
    "Accuracy, %",
    "95 % interval",
    "n",
    "Threat",
    "Kind",
    "Steps",
    "Restarts",
    "Step size",
    "Space",
    "Iterate",
    "Time",
    "Forward passes",
    "Backward passes",
    "Precision",
    "Settings",
)


def attacks(evaluated: Sequence[Evaluated]) -> str | None:
    """One folded list for each evaluation."""
    return joined(map(_list, evaluated)) or None


def _list(one: Evaluated) -> Markup:
    name = f"{one.run}, {one.name}"
    worst = table(
        f"Worst cases of {name}: an image counts only if every attack of the threat failed on it",
        ("Threat", "Accuracy, %", "95 % interval", "n", "Attacks"),
        [
            (
                threat(case.norm, case.eps),
                percent(case.accuracy),
                interval(case.ci95),
                count(one.result.dataset.n),
                _names(case.attacks),
            )
            for case in one.result.worst_case
        ],
        class_="wordy",
    )
    caption = f"Attacks of {name}. Passes are those an image that the row added to earlier rows"
    rows = table(caption, _HEADER, map(_row, one.result.attacks))
    summary = tag("summary", f"{name}: {plural(len(one.result.attacks), 'row')}")
    return tag("details", summary, worst if one.result.worst_case else "", rows)


def _names(names: Sequence[str]) -> Markup:
    return tag("span", f"{len(names)}: {', '.join(names)}")


def _row(entry: AttackEntry) -> list[object]:
    return [
        entry.name,
        percent(entry.accuracy),
        interval(entry.ci95),
        count(entry.n),
        threat(entry.norm, entry.eps),
        entry.kind,
        entry.steps,
        entry.restarts,
        decimal(entry.step_size),
        entry.space,
        entry.iterate,
        duration(entry.seconds),
        f"{entry.forwards:.1f}",
        f"{entry.backwards:.1f}",
        entry.precision,
        tag("code", json.dumps(entry.settings)) if entry.settings else ABSENT,
    ]
