"""The alarms, with cause and remedy, by run. `trust` doubts the number, `worth` doubts the architecture."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from dwf.core.result import FlagEntry
from dwf.report.markup import joined, tag
from dwf.report.reading import Evaluated
from dwf.report.wording import listed

_MEANING = {"trust": "doubts the number", "worth": "doubts the architecture"}


def flags(evaluated: Sequence[Evaluated]) -> str | None:
    """Every alarm of every evaluation; and in words, where there is none, what that is worth."""
    raised = [one for one in evaluated if one.result.flags]
    blocks = [_block(one) for one in raised]
    if calm := [f"{one.run} ({one.name})" for one in evaluated if not one.result.flags]:
        blocks.append(tag("p", f"No alarm was raised for {listed(calm)}."))
    if not any(attack.kind != "white" for one in evaluated for attack in one.result.attacks):
        advice = "Every attack here follows the model's own gradient. No black-box and no transfer attack has tried these models."
        blocks.append(tag("p", advice, class_="small"))
    return joined(blocks)


def _block(one: Evaluated) -> Markup:
    ordered = sorted(one.result.flags, key=lambda flag: flag.class_)  # trust before worth
    return tag("section", tag("h3", f"{one.run}, {one.name}"), *map(_alarm, ordered), class_="run")


def _alarm(flag: FlagEntry) -> Markup:
    head = tag("h4", "⚠ ", tag("code", flag.code), " ", tag("span", f"{flag.class_}: {_MEANING[flag.class_]}", class_="badge"))
    pairs = (("Value", f"{flag.value:.4g}"), ("Cause", flag.cause), ("Remedy", flag.remedy))
    return tag("div", head, tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in pairs)), class_=f"alarm {flag.class_}")
