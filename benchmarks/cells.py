"""The cells of a finished sweep, read for a page of the documentation: what each cost, and what evaluation says of it."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
from budget import budget

from dwf.report.matching import judge
from dwf.report.paired import Bits
from dwf.report.reading import Evaluated, read


class Cell(NamedTuple):
    """One run of a sweep."""

    name: str
    cost: dict[str, float]
    """As `budget` counts it."""
    evaluated: dict[str, Evaluated]
    """Protocol -> its evaluation."""

    @property
    def experts(self) -> int:
        """Passes of one net that a prediction takes."""
        return next(iter(self.evaluated.values())).result.model.forward_passes

    def right(self) -> dict[int, bool]:
        """Image -> whether it stays right under every attack at the headline threat, over all protocols that saw it."""
        found = []
        for one in self.evaluated.values():
            judged = judge(one)
            row = next(row for row in judged.bits if row.kind == "worst_case")
            found.append(dict(zip(judged.index.tolist(), judged.bits[row].tolist(), strict=True)))
        shared = reduce(lambda a, b: a & b, (set(one) for one in found))
        return {index: all(one[index] for one in found) for index in sorted(shared)}


def aligned(a: Cell, b: Cell) -> tuple[Bits, Bits]:
    """What stays right of the images that both were attacked on."""
    ours, theirs = a.right(), b.right()
    if ours.keys() != theirs.keys():
        raise SystemExit(f"{a.name} and {b.name} were judged on different images; evaluate both with the same --samples")
    return np.array([*ours.values()]), np.array([*theirs.values()])


def cell(folder: Path) -> Cell:
    """One run folder."""
    return Cell(folder.name, budget(folder), {one.protocol: one for one in read(folder)})


def cells(sweep: Path) -> list[Cell]:
    """In the order of the sweep's file; cells without an evaluation are left out."""
    names = json.loads((sweep / "sweep.json").read_text())["cells"]
    return [cell(sweep / name) for name in names if any((sweep / name / "eval").glob("*.json"))]
