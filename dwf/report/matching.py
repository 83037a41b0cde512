"""Which evaluations may be compared image by image: one protocol with the same settings, on the same images, with bits to show.

The bits of each row lie in `eval/<name>.npz`. Runs that differ in nothing but the seed are one contestant with several seeds.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dwf.core.errors import Refused
from dwf.core.result import ProtocolEntry, Result
from dwf.core.wording import count, listed, plural, short_threat
from dwf.report.commands import command
from dwf.report.paired import Bits
from dwf.report.reading import Evaluated


class Row(NamedTuple):
    """What both sides of a comparison measured."""

    name: str
    """`clean`, the attack's name, or `worst Linf 8/255`."""
    kind: Literal["clean", "attack", "worst_case"]
    norm: str
    eps: float
    attacks: tuple[str, ...]
    """The rows of bits behind it: an image counts only if it is right in all of them."""


@dataclass(frozen=True, eq=False)
class Judged:
    """One evaluation with its bits."""

    one: Evaluated
    index: NDArray[np.int64]
    """(N,) rows of the images in their source, ascending."""
    bits: Mapping[Row, Bits]
    """By row, in the order clean, attacks, worst cases (headline first); each (N,) in the order of `index`."""


@dataclass(frozen=True)
class Contestant:
    """One run, or the seeds of one preset."""

    name: str
    seeds: tuple[Judged, ...]


def bits_file(one: Evaluated) -> Path:
    """Where the bits of an evaluation lie."""
    return one.folder / "eval" / f"{one.name}.npz"


def judge(one: Evaluated) -> Judged:
    """Read the bits; raises `Refused` for a file that is missing, damaged or not that of the result beside it."""
    file = bits_file(one)
    remedy = f"delete what is left of this evaluation and run it again: {command(one)}"
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise Refused(f"the per-image bits in {file} are missing or damaged ({error}); {remedy}") from None
    n, rows = one.result.dataset.n, _rows(one)
    for name in dict.fromkeys(["index", *(name for row in rows for name in row.attacks)]):
        kind = np.integer if name == "index" else np.bool_
        if name not in arrays or arrays[name].shape != (n,) or not np.issubdtype(arrays[name].dtype, kind):
            raise Refused(f"{file} has no '{name}' for each of {plural(n, 'image')}; {remedy}")
    order = np.argsort(arrays["index"], kind="stable")
    bits = {row: np.logical_and.reduce([arrays[name][order] for name in row.attacks]) for row in rows}
    for row, stated in zip(rows, _accuracies(one), strict=True):
        if abs(bits[row].mean() - stated) > 1e-9:
            raise Refused(f"{file} does not belong to the result beside it, '{row.name}' is another accuracy; {remedy}")
    return Judged(one, arrays["index"][order], bits)


def unlike(a: Evaluated, b: Evaluated) -> str:
    """In what two evaluations differ, as far as the result files tell; empty if they may be paired."""
    first, second = a.result, b.result
    if said := apart(first.protocol, second.protocol):
        return f"the settings of the protocol ({said})"
    if _attacks(first) != _attacks(second) and first.protocol.settings.keys() != second.protocol.settings.keys():
        named = ", ".join(sorted(first.protocol.settings.keys() ^ second.protocol.settings.keys()))
        return f"the attacks of the protocol, of which only one names {named}"
    if _rows(a) != _rows(b):  # rows of their own, such as one for each expert, or another version of dwf
        names = sorted({row.name for row in {*_rows(a)} ^ {*_rows(b)}})
        return f"the rows of the protocol ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
    if (first.dataset.sha256, first.dataset.split) != (second.dataset.sha256, second.dataset.split):
        return f"the images ({_images(a)} against {_images(b)})"
    if (first.dataset.n, first.dataset.indices) != (second.dataset.n, second.dataset.indices):
        return f"the samples ({first.dataset.indices} against {second.dataset.indices})"
    return ""


def apart(a: ProtocolEntry, b: ProtocolEntry) -> str:
    """What both protocols name and set otherwise. What only one names came with a later version of dwf: the attacks tell."""
    ours, theirs = ({"protocol": entry.name, **entry.settings} for entry in (a, b))
    keys = [key for key in ours if key in theirs and ours[key] != theirs[key]]
    return ", ".join(f"{key} {ours[key]} against {theirs[key]}" for key in keys)


def _attacks(result: Result) -> list[object]:
    """Every attack with all its settings, and nothing of what it found."""
    named = {"name", "kind", "norm", "eps", "steps", "restarts", "step_size", "space", "iterate", "settings"}
    return [entry.model_dump(include=named) for entry in result.attacks]


def unpaired(a: Judged, b: Judged) -> str:
    """The same with what the bits tell: the very images."""
    if not (said := unlike(a.one, b.one)) and not np.array_equal(a.index, b.index):
        said = f"the samples ({count(len(np.intersect1d(a.index, b.index)))} of {plural(len(a.index), 'image')} in common)"
    return said


def contestants(judged: Sequence[Judged]) -> list[Contestant]:
    """Folds runs whose settings differ in the seed alone; a group that has one seed twice is left as it is."""
    found: dict[str, list[Judged]] = {}
    for one in judged:
        found.setdefault(_preset(one.one), []).append(one)
    groups: list[tuple[Judged, ...]] = []
    for members in found.values():
        distinct = len({member.one.record["seed"] for member in members}) == len(members)
        groups += [tuple(members)] if distinct else [(member,) for member in members]
    names = [m[0].one.run if len(m) == 1 else f"{m[0].one.base}, {len(m)} seeds" for m in groups]
    return [
        Contestant(f"{name} ({listed([str(m.one.folder) for m in members])})" if names.count(name) > 1 else name, members)
        for name, members in zip(names, groups, strict=True)
    ]


def remedy(a: Evaluated, b: Evaluated) -> str:
    """How to evaluate b's run as a's was."""
    if a.result.protocol == b.result.protocol and _rows(a) != _rows(b):
        return "evaluate both, in this version, by a protocol that asks every model the same, such as table3"
    again = command(replace(a, folder=b.folder, record=b.record))
    if (a.result.dataset.name, a.result.dataset.sha256) != (b.result.dataset.name, b.result.dataset.sha256):
        again += " --data IMAGES, with the images of the other"
    file = b.folder / "eval" / f"{a.name}.json"
    return f"move {file} away and run: {again}" if file.exists() else f"run: {again}"


def _rows(one: Evaluated) -> list[Row]:
    attacks = [Row(entry.name, "attack", entry.norm, entry.eps, (entry.name,)) for entry in one.result.attacks]
    worst = [
        Row(f"worst {short_threat(case.norm, case.eps, case.space)}", "worst_case", case.norm, case.eps, ("clean", *case.attacks))
        for case in one.result.worst_case
    ]
    return [Row("clean", "clean", "", 0.0, ("clean",)), *attacks, *worst]


def _accuracies(one: Evaluated) -> list[float]:
    """As the result file states them, in the order of the rows."""
    result = one.result
    return [result.clean.accuracy, *(e.accuracy for e in result.attacks), *(c.accuracy for c in result.worst_case)]


def _images(one: Evaluated) -> str:
    data = one.result.dataset
    return f"{data.name}, {data.split} split, sha256 {data.sha256[:8]}"


def _preset(one: Evaluated) -> str:
    """What the seeds of one preset have in common."""
    settings = {key: value for key, value in one.record["settings"].items() if key not in ("seed", "name", "out")}
    return json.dumps([one.base, settings], sort_keys=True, default=str)
