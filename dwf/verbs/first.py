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
from dwf.verbs.aside import job, passes

ANY = Spec(classes=("a", "b"), channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.5,) * 3)
"""What phases a method has does not depend on the images."""


class First(NamedTuple):
    """A phase that needs no other, without its model, of which many would not fit into memory."""

    name: str
    ignores: tuple[str, ...]
    passes: float


class Shared(NamedTuple):
    """A phase that one cell learns, and all cells that cannot go on without it."""

    job: Job
    cells: tuple[str, ...]


def first_phases(cells: Sequence[Cell], out: Path, device: str, *, reuse: bool) -> list[Shared]:
    """The jobs, the dearest first (`aside.passes`); `reuse`: cells share what is the same. A method of one kind of
    phase shares nothing.

    Settings decide here who may wait for whom; whether a phase is really the same is judged by everything (`training.reuse`), and a
    cell that finds none learns its own.
    """
    wanted: dict[str, list[tuple[Cell, First]]] = {}
    known: dict[str, list[First]] = {}
    for cell in cells:
        if len(cell.run.method.cost()) > 1 and not RunFolder(out / cell.name).weights.exists():
            for phase in _firsts(cell.run, known):
                label = json.dumps([_settings(cell.run, phase), None if reuse else cell.name], sort_keys=True)
                wanted.setdefault(label, []).append((cell, phase))
    return [
        _shared(askers, out, device, reuse=reuse)
        for askers in sorted(wanted.values(), key=lambda askers: -askers[0][1].passes)
        if not any((out / cell.name / "phases" / phase.name).exists() for cell, phase in askers)
    ]


def _firsts(run: Run, known: dict[str, list[First]]) -> list[First]:
    """Those of a method, asked once for all cells that have it; seeds do not matter here."""
    method = run.method.model_dump_json()
    if method not in known:
        phases = run.method.phases(build(run, ANY, torch.device("cpu")))
        known[method] = [First(phase.name, phase.ignores, passes(run, phase)) for phase in phases if not phase.needs]
    return known[method]


def _settings(run: Run, phase: First) -> Mapping[str, object]:
    everything = run.model_dump(mode="json", exclude={"about", "name"})
    method = {name: value for name, value in everything.pop("method").items() if name not in phase.ignores}
    return {**everything, "phase": phase.name, "method": method}


def _shared(askers: Sequence[tuple[Cell, First]], out: Path, device: str, *, reuse: bool) -> Shared:
    cell, phase = askers[0]
    one = job(cell.run, RunFolder(out / cell.name), phase.name, device, out if reuse else None)
    return Shared(replace(one, name=f"{cell.name}/{phase.name}"), tuple(asker.name for asker, _ in askers))
