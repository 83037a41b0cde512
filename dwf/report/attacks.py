"""Every attack of every evaluation with all of its settings, and every worst case with the attacks behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from dwf.core.result import AttackEntry
from dwf.core.wording import ABSENT, count, decimal, duration, interval, percent, plural, threat
from dwf.report.markup import joined, scrolling, table, tag
from dwf.report.reading import Evaluated
from dwf.report.rows import ball, cumulative, effort, sees, targets

_HEADER = (
    *("Attack", "Accuracy, %", "95 % interval", "n", "Threat", "Kind", "Sees", "On", "Steps", "Restarts", "Step size", "Iterate"),
    *("Forward passes", "Backward passes", "Time", "Precision", "Settings"),
)
_CUMULATIVE = "† counts everything that the row follows and itself: it attacks survivors only, and is no number of its own."
_STANDARDISED = "‡ radius and step are lengths in the standardised space, not shares of the pixel range."
_SAID = ("view", "on")
"""Settings that have columns of their own."""
Key = tuple[bool, str, float]


def attacks(evaluated: Sequence[Evaluated]) -> str | None:
    """One folded list for each evaluation."""
    return joined(map(_list, evaluated)) or None


def _list(one: Evaluated) -> Markup:
    name, entries = f"{one.run}, {one.name}", one.result.attacks
    worst = table(
        f"Worst cases of {name}: an image counts only if every attack of the threat failed on it",
        ("Threat", "Accuracy, %", "95 % interval", "n", "Attacks"),
        [
            (
                threat(case.norm, case.eps, case.space),
                percent(case.accuracy),
                interval(case.ci95),
                count(one.result.dataset.n),
                _names(case.attacks),
            )
            for case in one.result.worst_case
        ],
        class_="wordy",
    )
    caption = f"Attacks of {name}, by threat. Passes are those an image that the row added to earlier rows"
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in _HEADER)))
    ordered = sorted(entries, key=lambda entry: _place(one, entry))
    bodies = [tag("tbody", *(_row(one, e) for e in rows)) for _, rows in groupby(ordered, key=lambda entry: _place(one, entry))]
    rows = scrolling(tag("table", tag("caption", tag("span", caption)), head, *bodies, class_="attacks wordy"), caption)
    notes = [_CUMULATIVE] if any(cumulative(one, entry) for entry in entries) else []
    notes += [_STANDARDISED] if any(entry.space != "pixel" for entry in entries) else []
    summary = tag("summary", f"{name}: {plural(len(entries), 'row')}")
    under = tag("p", " ".join(notes), class_="small") if notes else ""
    return tag("details", summary, worst if one.result.worst_case else "", rows, under)


def _place(one: Evaluated, entry: AttackEntry) -> Key:
    """The headline threat first, then by norm and radius; rows of one threat stay in the protocol's order."""
    head = one.headline
    return head is None or (entry.norm, entry.eps) != (head.norm, head.eps), entry.norm, entry.eps


def _names(names: Sequence[str]) -> Markup:
    return tag("span", f"{len(names)}: {', '.join(names)}")


def _row(one: Evaluated, entry: AttackEntry) -> Markup:
    marks = ("†" if cumulative(one, entry) else "") + ("" if entry.space == "pixel" else "‡")
    cells: list[object] = [
        tag("span", percent(entry.accuracy), Markup("&nbsp;") + marks if marks else ""),
        interval(entry.ci95),
        count(entry.n),
        ball(entry),
        entry.kind,
        sees(entry),
        targets(one, entry),
        effort(entry),
        entry.restarts,
        decimal(entry.step_size) if entry.step_size else ABSENT,
        entry.iterate,
        f"{entry.forwards:,.1f}",
        f"{entry.backwards:,.1f}",
        duration(entry.seconds),
        entry.precision,
        tag("code", json.dumps(more)) if (more := {k: v for k, v in entry.settings.items() if k not in _SAID}) else ABSENT,
    ]
    return tag("tr", tag("th", entry.name, scope="row"), *(tag("td", cell) for cell in cells))
