"""The alarms, with cause and remedy, by run: what was raised, what was asked, and what nobody asked.

`trust` doubts the number, `worth` doubts the architecture.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from markupsafe import Markup

from dwf.core.result import FlagEntry
from dwf.core.wording import ABSENT, count, interval, listed, percent, plural
from dwf.report.commands import ask
from dwf.report.coverage import Coverage, coverage, raised
from dwf.report.headline import by_name
from dwf.report.markup import joined, table, tag
from dwf.report.reading import Evaluated

_MEANING = {"trust": "doubts the number", "worth": "doubts the architecture"}
_MARGIN = "and less, since each test also asks for a margin of a point or more"


def flags(evaluated: Sequence[Evaluated]) -> str | None:
    """Every alarm of every run; in words, where there is none; and what was asked, so that silence can be read."""
    runs = by_name(evaluated)
    blocks = [_block(run) for run in runs.values() if raised(run)]
    if calm := [name for name, run in runs.items() if not raised(run)]:
        blocks.append(tag("p", f"No alarm was raised for {listed(calm)}."))
    found = {name: coverage(run) for name, run in runs.items()}
    rows = [_asked(run, found[name]) for name, run in runs.items()]
    header = ("Run", "Asked", "Not asked", "Statistical tests", "A false alarm on a sound model")
    blocks.append(table("Which alarms could have been raised, and how easily by chance", header, rows, class_="sentences"))
    blocks.append(tag("p", _family(list(found.values())), class_="small"))
    blocks += [tag("p", said, class_="small") for run in runs.values() if (said := _gradients(run))]
    if white := [name for name, run in runs.items() if not any(_blind(one) for one in run)]:
        advice = f"No black-box and no transfer attack has tried {listed(white)}: every attack there follows a gradient."
        blocks.append(tag("p", advice, class_="small"))
    return joined(blocks)


def _block(run: Sequence[Evaluated]) -> Markup:
    return tag("section", tag("h3", run[0].run), *(_alarm(run, flag) for flag in raised(run).values()), class_="run")


def _alarm(run: Sequence[Evaluated], flag: FlagEntry) -> Markup:
    """One alarm, by however many evaluations."""
    found = [(one, other) for one in run for other in one.result.flags if other.code == flag.code]
    head = tag("h4", "⚠ ", tag("code", flag.code), " ", tag("span", f"{flag.class_}: {_MEANING[flag.class_]}", class_="badge"))
    values = ", ".join(f"{other.value:.4g} ({one.name}, n = {count(one.result.dataset.n)})" for one, other in found)
    causes, remedies = (dict.fromkeys(getattr(other, field) for _, other in found) for field in ("cause", "remedy"))
    pairs = [("Value", values), *(("Cause", cause) for cause in causes), *(("Remedy", remedy) for remedy in remedies)]
    return tag("div", head, tag("dl", *(tag("div", tag("dt", k), tag("dd", v)) for k, v in pairs)), class_=f"alarm {flag.class_}")


def _asked(run: Sequence[Evaluated], found: Coverage) -> list[object]:
    missing: object = ABSENT
    if found.missing:
        todo = tag("code", ask(run[0], "full"))
        missing = tag("span", f"{', '.join(found.missing)}; run ", todo)
    known = [f"{name}: {'not recorded' if tests is None else tests}" for name, tests in found.tests.items()]
    return [run[0].run, ", ".join(found.asked), missing, ", ".join(known) or "none", _bound(found.tests.values()) or ABSENT]


def _bound(counts: Collection[int | None]) -> str:
    """The union bound: `at most 20 %`; of the tests that are on record."""
    known = [number for number in counts if number is not None]
    if not known:
        return ""
    said = f"at most {min(100, 5 * sum(known))}\u00a0%"
    said += " (which bounds nothing)" if sum(known) >= 20 else ""
    return said + (", besides those not recorded" if len(known) < len(counts) else "")


def _family(found: Sequence[Coverage]) -> str:
    """The family-wise rate in one sentence."""
    tests = [number for one in found for number in one.tests.values()]
    if not tests:
        return "No alarm that was asked here is a statistical test."
    start = f"Were a model sound, each test would still raise a false alarm with a chance of at most 5 %, {_MARGIN}"
    whole = plural(sum(number or 0 for number in tests), "test")
    return f"{start}; the chance that any of the {whole} of this page does is {bound}." if (bound := _bound(tests)) else f"{start}."


def _gradients(run: Sequence[Evaluated]) -> str:
    """The measured share of zero gradients, raised or not."""
    found = [(one, share) for one in run if (share := one.result.facts.get("zero_gradient"))]
    said = [f"{percent(s.value)} % ({interval(s.ci95)}) of {plural(s.n, 'right image')} by {one.name}" for one, s in found]
    return f"{run[0].run} has an input gradient of exactly zero on {'; '.join(said)}." if said else ""


def _blind(one: Evaluated) -> bool:
    """Whether an attack without the gradient was among them; the reference AutoAttack ends with Square."""
    return any(entry.kind != "white" or entry.name == "autoattack" for entry in one.result.attacks)
