"""The headline of each evaluation: standard accuracy, worst case with its threat and interval, and the number of alarms."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from dwf.report.formats import alarms
from dwf.report.markup import tag
from dwf.report.reading import Evaluated
from dwf.report.wording import interval, percent, plural, threat


def summary(evaluated: Sequence[Evaluated]) -> str | None:
    """One card an evaluation."""
    return tag("div", *(_card(one, number) for number, one in enumerate(evaluated)), class_="cards")


def _card(one: Evaluated, number: int) -> Markup:
    result, head, name = one.result, one.headline, f"card-{number}"
    about = (
        f"{one.method}, {one.name} on {result.dataset.name}, {result.dataset.split} split, n = {plural(result.clean.n, 'image')}"
    )
    parts = [tag("h3", one.run, id=name), tag("p", about, class_="about")]
    parts.append(_measure("Standard accuracy (SA)", result.clean.accuracy, result.clean.ci95))
    if head:
        name_ = f"Worst case, {threat(head.norm, head.eps)}"
        parts.append(_measure(name_, head.accuracy, head.ci95, f" over {plural(len(head.attacks), 'attack')}", main=True))
    else:
        parts.append(tag("p", "This protocol measures no worst case.", class_="measure"))
    parts.append(_alarms(one))
    return tag("article", *parts, class_="card", aria_labelledby=name)


def _measure(name: str, accuracy: float, bounds: Sequence[float], more: str = "", *, main: bool = False) -> Markup:
    low, high = (100 * bound for bound in bounds)
    bar = tag(
        "div",
        tag("span", class_="span", style=f"left:{low:.2f}%;width:{high - low:.2f}%"),
        tag("span", class_="point", style=f"left:{100 * accuracy:.2f}%"),
        class_="track",
        aria_hidden="true",
    )
    value = tag("p", tag("strong", percent(accuracy), Markup("&nbsp;%")), class_="value main" if main else "value")
    spread = tag("p", f"95 % interval {interval(bounds)}{more}", class_="small")
    return tag("div", tag("p", name, class_="name"), value, bar, spread, class_="measure")


def _alarms(one: Evaluated) -> Markup:
    if not one.result.flags:
        return tag("p", "✓ No alarm among those that this protocol checks", class_="verdict calm")
    noun = "alarm" if len(one.result.flags) == 1 else "alarms"
    text = f"⚠ {len(one.result.flags)} {noun}: {alarms(one.result)}"
    return tag("p", tag("a", text, href="#alarms"), class_="verdict loud")
