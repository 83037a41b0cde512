"""Run folders read for a page of the documentation: what each cost, and what evaluation says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from budget import budget

from dwf.core.errors import Refused
from dwf.evaluation.protocol import file_name
from dwf.evaluation.statistics import wilson
from dwf.report.matching import Judged, apart, judge
from dwf.report.paired import Bits
from dwf.report.reading import Evaluated, read
from dwf.verbs.evaluate import read_protocol


class Cell(NamedTuple):
    """One run."""

    name: str
    cost: dict[str, float]
    """As `budget` counts it."""
    judged: dict[str, Judged]
    """Name of an evaluation -> the evaluation with its bits, all of one threat and on the same images."""

    @property
    def evaluated(self) -> list[Evaluated]:
        """The same without bits."""
        return [one.one for one in self.judged.values()]

    @property
    def experts(self) -> int:
        """Passes of one net that a prediction takes."""
        return self.evaluated[0].result.model.forward_passes

    @property
    def clean(self) -> Bits:
        """Image -> whether it is right as it is."""
        return self._row("clean")

    @property
    def right(self) -> Bits:
        """Image -> whether it stays right under every attack at the headline threat, over all evaluations."""
        return self._row("worst_case")

    @property
    def robust(self) -> tuple[float, tuple[float, float]]:
        """Share that stays right, with its 95 % interval."""
        return float(self.right.mean()), wilson(int(self.right.sum()), len(self.right))

    def _row(self, kind: str) -> Bits:
        found = [next(bits for row, bits in one.bits.items() if row.kind == kind) for one in self.judged.values()]
        every: Bits = np.logical_and.reduce(found)
        return every


def aligned(a: Cell, b: Cell) -> tuple[Bits, Bits]:
    """What stays right of each image in both; ends with a sentence where they were not judged alike."""
    for name in a.judged.keys() | b.judged.keys():
        if name not in a.judged or name not in b.judged:
            raise SystemExit(f"{a.name} and {b.name} cannot be compared: only one of them has '{name}'; evaluate the other too")
        if not _alike(a.judged[name], b.judged[name]):
            raise SystemExit(f"{a.name} and {b.name} were judged on other images or settings by {name}; evaluate both alike")
    return a.right, b.right


def cell(folder: Path, names: list[str] | None = None) -> Cell:
    """One run folder, by the evaluations `names`, or by all; ends with a sentence where one is missing or of another threat."""
    try:
        found = {one.name: judge(one) for one in read(folder) if names is None or one.name in names}
    except Refused as refusal:
        raise SystemExit(str(refusal)) from None
    if missing := [name for name in names or () if name not in found]:
        raise SystemExit(f"{folder} has no evaluation '{missing[0]}'; finish the sweep first, with --resume")
    heads = {(one.one.headline.norm, round(one.one.headline.eps, 6)) for one in found.values() if one.one.headline}
    sizes = {one.index.tobytes() for one in found.values()}
    if len(heads) != 1 or len(sizes) != 1:
        raise SystemExit(f"{folder} has evaluations of several threats or images ({', '.join(found)}); name some with --protocol")
    return Cell(folder.name, budget(folder), found)


def cells(sweep: Path) -> list[Cell]:
    """Of a sweep, those that have been judged, in the order of its file, each by all of its protocols."""
    names = wanted(sweep)
    found = [cell(sweep / name, names) for name in _content(sweep)["cells"] if _begun(sweep / name)]
    if not found:
        raise SystemExit(f"no cell of {sweep} has been judged yet; go on with --resume")
    return found


def beside(sweep: Path, runs: Path) -> list[Cell]:
    """Those of the run folders in `runs` that were evaluated as the cells of a sweep are, under the names that their runs have."""
    names = wanted(sweep)
    alike = [run for run in sorted(runs.iterdir()) if all((run / "eval" / f"{name}.json").exists() for name in names)]
    found = [cell(run, names) for run in alike]
    return [one._replace(name=one.evaluated[0].run) for one in found]


def wanted(sweep: Path) -> list[str]:
    """Names of the evaluations by which a sweep's cells are judged."""
    return [file_name(read_protocol(one["name"], tuple(one["set"]))) for one in _content(sweep)["protocols"]]


def absent(sweep: Path) -> str:
    """A line that names the cells that have not been judged; empty where all have."""
    names = ", ".join(f"`{name}`" for name in _content(sweep)["cells"] if not _begun(sweep / name))
    return f"\nNot run yet: {names}.\n" if names else ""


def _begun(folder: Path) -> bool:
    """Whether there is anything to judge a cell by."""
    return any((folder / "eval").glob("*.json"))


def _content(sweep: Path) -> dict[str, Any]:
    record = sweep / "sweep.json"
    if not record.exists():
        raise SystemExit(f"{sweep} is no folder of a sweep: it has no sweep.json")
    content: dict[str, Any] = json.loads(record.read_text())
    return content


def _alike(a: Judged, b: Judged) -> bool:
    """Whether settings and images are the same; the rows need not be, since mixtures of other sizes have others."""
    ours, theirs = a.one.result, b.one.result
    images = [(result.dataset.sha256, result.dataset.split) for result in (ours, theirs)]
    return not apart(ours.protocol, theirs.protocol) and images[0] == images[1] and np.array_equal(a.index, b.index)
