"""The paper's table on the page: a line a run, its interval under each number, the worst iterate on a line of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

from dwf.report.formats import READING, alarms, spread
from dwf.report.layout import Cell, Column, Group, cell, groups, is_best, repeated
from dwf.report.markup import joined, scrolling, tag
from dwf.report.reading import Evaluated
from dwf.report.wording import ABSENT, count, interval, percent

_ITERATE = "The rows of an attack score its last iterate; under any iterate, an image is lost if any step of the attack broke it."


def table(evaluated: Sequence[Evaluated]) -> str | None:
    """One table for each protocol and data set, and how to read it."""
    return joined([*map(_table, groups(evaluated)), tag("p", f"{READING} {_ITERATE}", class_="small")])


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
        if family in ("fgsm", "pgd"):
            text = "FGSM, by radius" if family == "fgsm" else f"PGD at {group.pgd_radius}, by steps"
            upper.append(tag("th", text, scope="colgroup", colspan=len(same), class_="family"))
            lower += [tag("th", c.label, _note(c.note if family == "fgsm" else ""), scope="col") for c in same]
        else:
            upper += [tag("th", c.label, _note(c.note), scope="col", rowspan=2) for c in same]
    upper.append(tag("th", "Alarms", scope="col", rowspan=2, class_="text"))
    return tag("thead", tag("tr", *upper), tag("tr", *lower) if lower else "")


def _rows(one: Evaluated, group: Group, columns: Sequence[Column]) -> list[Markup]:
    heading = tag("th", one.run, _note(one.method), scope="row")
    found = [(column, cell(one, column)) for column in columns]
    cells = [_cell(c, bold=is_best(group, column, c)) for column, c in found]
    images = tag("td", count(one.result.dataset.n))
    rows = [tag("tr", heading, images, *cells, tag("td", alarms(one.result), class_="text"))]
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
