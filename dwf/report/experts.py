"""A mixture taken apart: its experts or its routing attacked, copies that hide less, each expert alone, other ways of asking."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from dwf.core.result import AttackEntry, Share
from dwf.core.wording import ABSENT, count, interval, percent, short_threat
from dwf.report.markup import blocks, joined, table, tag
from dwf.report.reading import Evaluated
from dwf.report.routing import names
from dwf.report.rows import cumulative, effort, sees, targets

_OWN = ("frozen-routing", "routing", "weighted-logits", "surrogate", "reweighed", "pgd-eot20", "worst-permutation")
_HEADER = ("Attack", "Sees", "Accuracy, %", "95 % interval", "n", "On")
_CUMULATIVE = Markup("&nbsp;†")
_DAGGER = "† attacks only the survivors of earlier rows, and is the accuracy after all of those and itself: no number of its own."


def experts(evaluated: Sequence[Evaluated]) -> str | None:
    """One block for each evaluation that attacked experts or routing."""
    return blocks([(f"{one.run}, {one.name}", joined(parts)) for one in evaluated if (parts := _parts(one))])


def _parts(one: Evaluated) -> list[Markup]:
    rows = {entry.name: entry for entry in one.result.attacks if entry.iterate == "last"}
    alone = sorted((name for name in rows if name.startswith("expert-")), key=lambda name: int(name.rpartition("-")[2]))
    taken = [rows[name] for name in _OWN if name in rows]
    soft = [entry for name, entry in rows.items() if name.startswith("softened-")]
    makers = [
        _taken_apart(one, taken) if taken else None,
        _softened(one, soft, rows.get("restarts-gradient")) if soft else None,
        _alone(one, [rows[name] for name in alone]) if alone else None,
        _asked_otherwise(one) if any(name.startswith(("oracle/", "uniform/")) for name in one.result.facts) else None,
    ]
    return [part for part in makers if part is not None]


def _taken_apart(one: Evaluated, entries: Sequence[AttackEntry]) -> Markup:
    caption = f"{_where(one, entries[0])}: what the whole system does when only a part of it is attacked"
    whole = [entry for entry in one.result.attacks if entry.name in ("pgd", "apgd-ce") or entry is _pgd(one)]
    body = table(caption, _HEADER, [_line(one, e) for e in (*whole, *entries)], class_="worded")
    said = []
    if moved := one.result.facts.get("rerouted"):
        said.append(
            f"The attack on the routing sends {percent(moved.value)} % ({interval(moved.ci95)}) of {count(moved.n)} attacked "
            "images to another expert than the clean image."
        )
    return joined([body, *_notes(one, (*whole, *entries), said)])


def _softened(one: Evaluated, entries: Sequence[AttackEntry], again: AttackEntry | None) -> Markup:
    rows = [*([again] if again else []), *entries]
    caption = f"{_where(one, entries[0])}: images made on copies with softer gate and experts"
    if again:
        caption += ", beside restarts of the same price (restarts-gradient)"
    body = table(caption, _HEADER, [_line(one, entry) for entry in rows], class_="worded")
    said = ["Lower numbers than under attacks on the whole model mean that gate or experts are saturated and hide their gradients."]
    return joined([body, *_notes(one, rows, said)])


def _line(one: Evaluated, entry: AttackEntry) -> list[object]:
    mark = _CUMULATIVE if cumulative(one, entry) else ""
    numbers = [tag("span", percent(entry.accuracy), mark), interval(entry.ci95), count(entry.n)]
    return [entry.name, _text(sees(entry)), *numbers, _text(targets(one, entry))]


def _notes(one: Evaluated, entries: Sequence[AttackEntry], said: Sequence[str]) -> Iterator[Markup]:
    marked = [_DAGGER] if any(cumulative(one, entry) for entry in entries) else []
    if text := " ".join([*said, *marked]):
        yield tag("p", text, class_="small")


def _alone(one: Evaluated, entries: Sequence[AttackEntry]) -> Markup:
    facts, called = one.result.facts, names(one, len(entries))
    caption = f"{_where(one, entries[0])}: each expert attacked by itself ({effort(entries[0])})"
    header = ("Expert", "Its own SA, %", "Its own RA, %", "The whole system on the same images, %", "n")
    rows: list[list[object]] = [
        [
            name if name == f"expert {i + 1}" else tag("span", name, tag("small", f" expert {i + 1}")),
            *(_share(facts.get(f"{entry.name}/{kind}")) for kind in ("clean", "robust")),
            _number(entry.accuracy, entry.ci95),
            count(entry.n),
        ]
        for i, (name, entry) in enumerate(zip(called, entries, strict=True))
    ]
    said = (
        "Own SA and RA are those of the expert without gate and fellows, over all images. The last number is what the whole system "
        "makes of the images that were made against this expert; what the expert gets wrong anyway is left as it is."
    )
    return joined([table(caption, header, rows), tag("p", said, class_="small")])


def _asked_otherwise(one: Evaluated) -> Markup:
    facts, clean, pgd = one.result.facts, one.result.clean, _pgd(one)
    caption = f"{one.run}, {one.name}: other ways of asking the same experts"
    rows = [
        ("the gate", _number(clean.accuracy, clean.ci95), _number(pgd.accuracy, pgd.ci95) if pgd else ABSENT),
        ("uniform gate", _share(facts.get("uniform/clean")), _share(facts.get("uniform/pgd"))),
        ("oracle", _share(facts.get("oracle/clean")), _share(facts.get("oracle/pgd"))),
    ]
    said = (
        "The images under PGD were made against the whole system with its gate. Oracle: right if any expert is. Uniform: by the "
        "experts' mean. Neither was attacked itself, so under PGD both flatter; no choice of one expert an image could be right "
        "more often than the oracle."
    )
    header = ("Decision", "Clean images, %", "Under PGD against the gate's system, %", "n")
    return joined([table(caption, header, [(*row, count(clean.n)) for row in rows]), tag("p", said, class_="small")])


def _pgd(one: Evaluated) -> AttackEntry | None:
    """Plain PGD on the whole model at the headline threat, of as few steps as the experts were attacked with."""
    head = one.headline
    found = [
        entry
        for entry in one.result.attacks
        if re.fullmatch(r"pgd(-\d+)?", entry.name) and head and (entry.norm, entry.eps) == (head.norm, head.eps)
    ]
    return min(found, key=lambda entry: entry.steps, default=None)


def _where(one: Evaluated, entry: AttackEntry) -> str:
    return f"{one.run}, {one.name}, {short_threat(entry.norm, entry.eps, entry.space)}"


def _share(share: Share | None) -> object:
    return _number(share.value, share.ci95) if share else ABSENT


def _number(value: float, bounds: Sequence[float]) -> Markup:
    return tag("span", percent(value), tag("small", interval(bounds), class_="below"))


def _text(words: str) -> Markup:
    return tag("span", words, class_="words")
