"""The few pieces of HTML that the figures are made of. Every string is escaped unless it is markup already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

VOID = frozenset({"img", "br"})
FEW = 4
"""Blocks that stand open below each other."""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """`<name attribute="...">children</name>`; a trailing underscore in an attribute's name is dropped, others become `-`."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    opening = Markup("<{}{}>").format(name, written)
    return opening if name in VOID else opening + joined(children) + Markup("</{}>").format(name)


def joined(parts: Iterable[object], between: str = "") -> Markup:
    """The parts one after the other, escaped where they are plain text."""
    return Markup(between).join(escape(part) for part in parts)


def scrolling(table: Markup, label: str) -> Markup:
    """A table that scrolls in its own box, also by keyboard, so that the page itself never scrolls sideways."""
    return tag("div", table, class_="scroll", role="region", tabindex="0", aria_label=label)


def table(caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], *, class_: str | None = None) -> Markup:
    """A table with a caption; the first cell of each row is its heading."""
    head = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in header)))
    body = tag(
        "tbody",
        *(tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows),
    )
    return scrolling(tag("table", tag("caption", tag("span", caption)), head, body, class_=class_), caption)


def figure(title: str, drawing: Markup, said: str, data: Markup) -> Markup:
    """A drawing under its title, what it says in a sentence and, folded away, the numbers behind it."""
    numbers = tag("details", tag("summary", "The numbers behind this figure"), data)
    return tag("figure", tag("figcaption", title), drawing, tag("p", said, class_="said"), numbers)


def blocks(found: Sequence[tuple[str, Markup]]) -> Markup | None:
    """Each under its heading; more than a few are folded away behind theirs, so that a page of many runs stays one to read."""
    if len(found) > FEW:
        return joined(tag("details", tag("summary", heading), body, class_="run") for heading, body in found)
    return joined(tag("section", tag("h3", heading), body, class_="run") for heading, body in found) or None


def facts(pairs: Iterable[tuple[object, object]]) -> Markup:
    """A list of names and values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_="facts")
