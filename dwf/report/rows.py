"""One row of a protocol in words: what the attack sees, on whom it runs, how long, and whether its number is its own."""

from __future__ import annotations

from typing import Any

from dwf.core.result import AttackEntry
from dwf.core.wording import count, threat
from dwf.report.reading import Evaluated

_SURVIVORS = "survivors of "
_CLEAN = "the clean image"
_WHOLE = "the whole model"
_VIEWS = {
    "Whole": _WHOLE,
    "FrozenRouting": "its experts, routing frozen (RA-E)",
    "WeightedLogits": "its raw logits under the gate's weights",
    "routing": "its routing alone (RA-R)",
}
_NAMED = {
    "reweighed": "its experts, reweighed by what they can still change",
    "autoattack": "the whole model, by the reference code",
}
"""Rows whose settings have no view."""
_RIGHT_ONLY = ("autoattack", "expert-")
"""Beginnings of the names of rows that run on the images that are right as they are, and do not say so in their settings."""
_AS_THE_PROTOCOL = ("routing", "reweighed")
"""Rows that run on the survivors under `full` and on all right images under `moe`, and do not say so in their settings."""


def sees(entry: AttackEntry) -> str:
    """What is ascended: `the whole model`, `expert 3`, `a softened copy (gate 10, experts 100)`."""
    view: dict[str, Any] = entry.settings.get("view") or {}
    match view.get("kind"):
        case "Expert":
            return f"expert {int(view.get('number', 0)) + 1} alone"
        case "Softened":
            return f"a softened copy (temperatures: gate {view.get('gate'):g}, experts {view.get('experts'):g})"
        case "Surrogate":
            return "a copy with soft routing"
        case "Permutation":
            return f"the whole model, its gate's rows held at {' '.join(map(str, view.get('permutation', ())))}"
        case "EveryPermutation":
            return f"the whole model, its gate's rows held: {view.get('held')} of {view.get('of')} permutations, one by one"
        case "Another":
            return f"another model, {view.get('name')}"
        case kind:
            return _VIEWS.get(str(kind), str(kind)) if kind else _NAMED.get(entry.name, _WHOLE)


def targets(one: Evaluated, entry: AttackEntry) -> str:
    """Whom it attacks: `all images`, `images that are right`, `survivors of apgd-t`."""
    if on := entry.settings.get("on"):
        return "images that are right" if on == _SURVIVORS + _CLEAN else str(on)
    if entry.name.startswith(_RIGHT_ONLY):
        return "images that are right"
    if entry.name in _AS_THE_PROTOCOL:
        return f"{_SURVIVORS}all before" if one.protocol == "full" else "images that are right"
    return "all images"


def cumulative(one: Evaluated, entry: AttackEntry) -> bool:
    """Whether the number is that of everything the row follows and itself, and so says little about the row alone."""
    return targets(one, entry).startswith(_SURVIVORS)


def effort(entry: AttackEntry) -> str:
    """Steps as the attack counts them: `50`, `1,000 queries`; for a row of several attacks, each with its own."""
    if several := entry.settings.get("attacks"):
        return ", then ".join(f"{str(one.get('kind', '?')).replace('_', '-').upper()} {one.get('steps', '?')}" for one in several)
    return f"{count(entry.steps)} queries" if entry.kind == "black" else count(entry.steps)


def ball(entry: AttackEntry) -> str:
    """The threat; a length in the standardised space is said to be one."""
    return threat(entry.norm, entry.eps, entry.space)
