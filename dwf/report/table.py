"""The results on the page: all runs at a glance, the paper's table, and the worst cases of the other protocols.

A line a run, its interval under each number, the worst iterate on a line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from dwf.core.wording import ABSENT, count, interval, percent
from dwf.report.formats import OTHERS, READING, alarms, spread
from dwf.report.layout import Cell, Column, Group, cell, is_best, others, papers, repeated
from dwf.report.markup import joined, scrolling, tag
from dwf.report.overview import COLUMNS, MARK, NOT_RUN, Entry, Overview, overviews
from dwf.report.reading import Evaluated

_ITERATE = "The rows of an attack score its last iterate; under any iterate, an image is lost if any step of the attack broke it."


def table(evaluated: Sequence[Evaluated]) -> str | None:
    """The overview, one table for each radius of the paper's protocol, one for the other protocols, and how to read them."""
    parts: list[object] = [*map(_overview, overviews(evaluated)), *map(_table, papers(evaluated))]
    if parts and papers(evaluated):
        parts.append(tag("p", f"{READING} {_ITERATE}", class_="small"))
    if rest := others(evaluated):
        parts += [*map(_table, rest), tag("p", OTHERS, class_="small")]
    return joined(parts)


def _overview(one: Overview) -> Markup:
    caption = f"{one.title}: accuracy in percent, its 95 % interval and its number of images"
    alarms_ = tag("th", "Alarms", scope="col", class_="text")
    rows = [
        tag(
            "tr",
            tag("th", line.run, _note(line.method), scope="row"),
            *map(_entry, line.entries),
            tag("td", *_lines(line.alarms), class_="text"),
        )
        for line in one.lines
    ]
    head = tag("thead", tag("tr", tag("th", "Run", scope="col"), *(tag("th", name, scope="col") for name in COLUMNS), alarms_))
    whole = tag("table", tag("caption", tag("span", caption)), head, tag("tbody", *rows), class_="overview")
    return scrolling(whole, caption) + joined(tag("p", remark, class_="small") for remark in one.remarks)


def _entry(found: Entry | None) -> Markup:
    if found is None:
        return tag("td", NOT_RUN, class_="absent")
    score = found.score
    mark = MARK if found.changed else ""
    return tag("td", percent(score.accuracy), mark, _note(interval(score.ci95)), _note(f"n = {count(score.n)}"))


def _lines(alarms_: str) -> list[object]:
    raised, _, asked = alarms_.partition("; ")
    return [raised, _note(asked)]


def _table(group: Group) -> Markup:
    columns = group.columns
    caption = f"{group.title}: accuracy in percent with its 95 % interval"
    body = [row for one in group.members for row in _rows(one, group, columns)]
    for label, members in repeated(group):
        numbers = [_spread(spread(members, column)) for column in columns]
        body.append(tag("tr", tag("th", f"{label}, mean ± std", scope="row"), tag("td"), *numbers, tag("td")))
    whole = tag("table", tag("caption", tag("span", caption)), _head(group, columns), tag("tbody", *body), class_="numbers")
    return scrolling(whole, caption)


def _head(group: Group, columns: Sequence[Column]) -> Markup:
    upper = [tag("th", "Run", scope="col", rowspan=2), tag("th", "n", scope="col", rowspan=2)]
    lower = []
    for family, members in groupby(columns, key=lambda column: column.family):
        same = list(members)
        if family in ("fgsm", "pgd") or (family == "worst" and len(same) > 1):
            upper.append(tag("th", _family(group, family), scope="colgroup", colspan=len(same), class_="family"))
            lower += [_lower(column) for column in same]
        else:
            upper += [tag("th", c.label, _note(c.note), scope="col", rowspan=2) for c in same]
    upper.append(tag("th", "Alarms", scope="col", rowspan=2, class_="text"))
    return tag("thead", tag("tr", *upper), tag("tr", *lower) if lower else "")


def _family(group: Group, family: str) -> str:
    return {"fgsm": "FGSM, by radius", "worst": "Worst case, by threat"}.get(family, f"PGD at {group.pgd_radius}, by steps")


def _lower(column: Column) -> Markup:
    if column.family == "worst":
        return tag("th", column.note, scope="col")
    return tag("th", column.label, _note(column.note if column.family == "fgsm" else ""), scope="col")


def _rows(one: Evaluated, group: Group, columns: Sequence[Column]) -> list[Markup]:
    heading = tag("th", one.run, _note(one.method if group.name else one.name), scope="row")
    found = [(column, cell(one, column)) for column in columns]
    cells = [_cell(c, bold=is_best(group, column, c)) for column, c in found]
    images = tag("td", count(one.result.dataset.n))
    rows = [tag("tr", heading, images, *cells, tag("td", alarms(one), class_="text"))]
    worst = [cell(one, column, "worst") for column in columns]
    if any(worst):
        rows.append(
            tag(
                "tr",
                tag("th", "any iterate", scope="row"),
                tag("td"),
                *(_cell(c) if c else tag("td") for c in worst),
                tag("td"),
                class_="minor",
            )
        )
    return rows


def _cell(found: Cell | None, *, bold: bool = False) -> Markup:
    if found is None:
        return tag("td", ABSENT, class_="absent")
    number = percent(found.accuracy)
    bounds = interval((found.low, found.high))
    return tag(
        "td",
        tag("b", number) if bold else number,
        _note(percent(found.low) + "–"),
        _note(percent(found.high)),
        title=f"{bounds}, n = {count(found.n)}",
    )


def _spread(text: str) -> Markup:
    mean, _, deviation = text.partition(" ")
    return tag("td", mean, _note(deviation))


def _note(text: str) -> Markup:
    return tag("small", text) if text else Markup("")
