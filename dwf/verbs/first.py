"""What a sweep learns first: every phase that needs no other, each different one once, however many cells want it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from dwf.cells import Cell
from dwf.core.types import Spec
from dwf.executors import Job
from dwf.run import Run, RunFolder, build
from dwf.training.plan import Phase
from dwf.verbs.aside import job

ANY = Spec(classes=("a", "b"), channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
"""What phases a method has does not depend on the images."""


class Shared(NamedTuple):
    """A phase that one cell learns, and all cells that cannot go on without it."""

    job: Job
    cells: tuple[str, ...]


def first_phases(cells: Sequence[Cell], out: Path, device: str, *, reuse: bool) -> list[Shared]:
    """The jobs, in the order of the cells; `reuse`: cells share what is the same. A method of one phase has nothing to share.

    Settings decide here who may wait for whom; whether a phase is really the same is judged by everything (`training.reuse`), and a
    cell that finds none learns its own.
    """
    wanted: dict[str, list[tuple[Cell, str]]] = {}
    known: dict[str, Sequence[Phase]] = {}
    for cell in cells:
        if len(cell.run.method.cost()) > 1 and not RunFolder(out / cell.name).weights.exists():
            for phase in _phases(cell.run, known):
                if not phase.needs:
                    label = json.dumps([_settings(cell.run, phase), None if reuse else cell.name], sort_keys=True)
                    wanted.setdefault(label, []).append((cell, phase.name))
    return [
        _shared(askers, out, device, reuse=reuse)
        for askers in wanted.values()
        if not any((out / cell.name / "phases" / name).exists() for cell, name in askers)
    ]


def _phases(run: Run, known: dict[str, Sequence[Phase]]) -> Sequence[Phase]:
    """Those of a method, built once for all cells that have it; seeds do not matter here."""
    method = run.method.model_dump_json()
    if method not in known:
        known[method] = run.method.phases(build(run, ANY, torch.device("cpu")))
    return known[method]


def _settings(run: Run, phase: Phase) -> Mapping[str, object]:
    everything = run.model_dump(mode="json", exclude={"about", "name"})
    method = {name: value for name, value in everything.pop("method").items() if name not in phase.ignores}
    return {**everything, "phase": phase.name, "method": method}


def _shared(askers: Sequence[tuple[Cell, str]], out: Path, device: str, *, reuse: bool) -> Shared:
    cell, phase = askers[0]
    one = job(cell.run, RunFolder(out / cell.name), phase, device, out if reuse else None)
    return Shared(replace(one, name=f"{cell.name}/{phase}"), tuple(asker.name for asker, _ in askers))
