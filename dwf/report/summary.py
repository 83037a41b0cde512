"""Each run at a glance: standard accuracy, the lowest worst case with its threat, interval and protocol, and the alarms."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from dwf.core.wording import interval, listed, percent, plural, short_threat, threat
from dwf.report.coverage import coverage, raised
from dwf.report.headline import Verdict, by_name, headline, verdicts
from dwf.report.markup import tag
from dwf.report.reading import Evaluated


def summary(evaluated: Sequence[Evaluated]) -> str | None:
    """One card a run."""
    return tag("div", *(_card(run, i) for i, run in enumerate(by_name(evaluated).values())), class_="cards")


def _card(run: Sequence[Evaluated], number: int) -> Markup:
    first, name = run[0], f"card-{number}"
    data = dict.fromkeys(f"{one.result.dataset.name}, {one.result.dataset.split} split" for one in run)
    about = f"{first.method}{' from elsewhere' if first.foreign else ''}; {'; '.join(data)}"
    parts = [tag("h3", first.run, id=name), tag("p", about, class_="about")]
    ball = headline(run)
    found = verdicts(run, ball) if ball else []
    parts += [part for place, one in enumerate(found) for part in _verdict(one, first=place == 0)]
    if len(found) > 1:
        parts.append(tag("p", "Different images: part of the difference between these numbers is theirs.", class_="small"))
    if not found:
        clean = max((one.result.clean for one in run), key=lambda clean: clean.n)
        parts.append(_images(clean.n, listed([one.name for one in run])))
        parts.append(_measure("Standard accuracy (SA)", clean.accuracy, clean.ci95))
        which = "This protocol measures no" if len(run) == 1 else "None of these protocols measures a"
        parts.append(tag("p", f"{which} worst case in pixels.", class_="measure"))
    shown = {id(one) for verdict in found for one in verdict.among}
    parts += [_aside(one) for one in run if id(one) not in shown and one.headline]
    parts.append(_alarms(run))
    return tag("article", *parts, class_="card", aria_labelledby=name)


def _verdict(found: Verdict, *, first: bool) -> list[Markup]:
    """Of further sets of images, the standard accuracy is one line."""
    case, result = found.case, found.by.result
    title = f"Worst case, {threat(case.norm, case.eps)}"
    others = [one.name for one in found.among if one is not found.by]
    among = f"; none lower by {listed(others)}" if others else ""
    by = f" over {plural(len(case.attacks), 'attack')} by {found.by.name}{among}"
    clean = result.clean
    return [
        _images(result.dataset.n, ""),
        _measure("Standard accuracy (SA)", clean.accuracy, clean.ci95)
        if first
        else tag("p", f"SA {percent(clean.accuracy)} % ({interval(clean.ci95)})", class_="small"),
        _measure(title, case.accuracy, case.ci95, by, main=True),
    ]


def _aside(one: Evaluated) -> Markup:
    """An evaluation at another threat than the card's."""
    head = one.headline
    assert head is not None
    where = short_threat(head.norm, head.eps, head.space)
    numbers = f"{percent(head.accuracy)} % ({interval(head.ci95)}), n = {plural(one.result.dataset.n, 'image')}"
    return tag("p", f"Also, at {where}: {numbers}, by {one.name}", class_="small")


def _images(n: int, names: str) -> Markup:
    return tag("p", f"n = {plural(n, 'image')}{f': {names}' if names else ''}", class_="images-of")


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


def _alarms(run: Sequence[Evaluated]) -> Markup:
    flags, asked = raised(run), coverage(run)
    if not flags:
        missing = f"; {len(asked.missing)} were not asked" if asked.missing else ""
        text = f"✓ No alarm among the {len(asked.asked)} that were asked{missing}"
        return tag("p", tag("a", text, href="#alarms"), class_="verdict calm")
    kinds = [flag.class_ for flag in flags.values()]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("trust", "worth") if kind in kinds)
    return tag("p", tag("a", f"⚠ {plural(len(kinds), 'alarm')}: {counts}", href="#alarms"), class_="verdict loud")
