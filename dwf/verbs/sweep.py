"""`dwf sweep`: many runs of one file, each an ordinary run folder, judged alike and reported together.

First every phase that needs no other, each different one once; then the cells, which take those over and do the rest. Both are jobs
of an executor, and go on where they stood.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dwf.cells import Cell, Sweep, cells_of
from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.files import write_json
from dwf.core.journal import Listener
from dwf.core.settings import nearest
from dwf.evaluation.protocol import file_name
from dwf.executors import Executor, Job, Local, Tell
from dwf.run import Run, RunFolder, differences
from dwf.verbs.evaluate import evaluate, read_protocol
from dwf.verbs.first import first_phases
from dwf.verbs.train import train
from dwf.verbs.validated import Validated, write_validated

SCHEMA = "dwf.sweep/1"


class Swept(NamedTuple):
    """How a sweep ended."""

    finished: Sequence[Path]
    """Run folders, in the order of the file."""
    failed: Mapping[str, str]
    """Cell -> one sentence."""
    pages: Sequence[Path]
    """The report and its tables; empty where nothing was judged."""
    validated: Sequence[Validated]
    """What the finished cells scored on images that they held out; validation.json has it too."""


def sweep(
    file: Sweep,
    out: Path | str,
    *,
    executor: Executor | None = None,
    device: str = "auto",
    resume: bool = False,
    reuse: bool = True,
    only: Sequence[str] = (),
    tell: Tell = lambda name, record: None,
) -> Swept:
    """Train and judge every cell of `file` (`dwf.cells.read_sweep`) in `out`/<cell>; write validation.json and report.html there.

    `executor`: where cells run; None: here, one after another. `resume` goes on with a sweep of the same file. `reuse`: finished
    phases are taken over between cells. `only`: these cells now, the others another time. `tell` hears how each cell gets on. A
    cell that fails leaves the others alone. Raises `Refused`, before anything runs, for settings that do not fit, for a cell that
    there is not and for a folder that is taken.
    """
    if ranks.launched() > 1:
        raise Refused("under torchrun all ranks train one run together; start a sweep without it, with --executor processes or ray")
    cells, place = cells_of(file), RunFolder(Path(out))
    if unknown := [name for name in only if name not in {cell.name for cell in cells}]:
        raise Refused(f"the sweep has no cell '{unknown[0]}'; {nearest(unknown[0], [cell.name for cell in cells])}")
    names = [file_name(read_protocol(one.name, one.set)) for one in file.protocols]
    if len(set(names)) < len(names):
        raise Refused(f"the sweep judges by '{max(names, key=names.count)}' twice; name every protocol with its settings once")
    executor, failed = executor or Local(), dict[str, str]()

    def ended(name: str, error: str | None) -> None:
        if error is not None:
            failed[name] = error
        tell(name, {"event": "cell", "error": error})

    with place.locked():
        _claim(place, file, cells, resume=resume)
        left = [cell for cell in cells if not _judged(place, cell, names) and (not only or cell.name in only)]
        shared = {one.job.name: one for one in first_phases(left, place.path, device, reuse=reuse)}
        for job, outcome in executor.run([one.job for one in shared.values()], tell):
            for name in shared[job.name].cells if outcome.error is not None else ():
                if name not in failed:
                    ended(name, f"phase '{job.name}': {outcome.error}")
        jobs = [_job(cell, file, place.path, device, reuse=reuse) for cell in left if cell.name not in failed]
        for job, outcome in executor.run(jobs, tell):
            ended(job.name, outcome.error)
        finished = [place.path / cell.name for cell in cells if _judged(place, cell, names) and cell.name not in failed]
        validated = write_validated(finished, place.path / "validation.json")
        pages = _report(finished, place.path / "report.html") if finished and names else []
    return Swept(finished, failed, pages, validated)


def work(
    tell: Listener,
    *,
    run: Mapping[str, Any],
    folder: str,
    protocols: Sequence[Mapping[str, Any]],
    samples: int | None,
    split: Any,
    device: str,
    reuse: str | None,
) -> None:
    """One cell, from where it stands."""
    shelf = None if reuse is None else Path(reuse)
    train(Run.read(run, where=folder), folder, device=device, resume=True, listeners=[tell], reuse=shelf)
    for one in protocols:
        result = evaluate(folder, one["name"], overrides=one["set"], samples=samples, split=split, device=device, resume=True)
        worst = result.worst_case[0] if result.worst_case else result.clean
        tell({"event": "judged", "protocol": one["name"], "accuracy": worst.accuracy, "n": result.dataset.n})


def _report(folders: Sequence[Path], page: Path) -> list[Path]:
    from dwf.report import write  # late: workers come here too, and have no use for a library that draws

    return write(folders, page)


def _job(cell: Cell, file: Sweep, out: Path, device: str, *, reuse: bool) -> Job:
    arguments = {
        "run": cell.run.model_dump(mode="json"),
        "folder": str((out / cell.name).resolve()),
        "protocols": [one.model_dump(mode="json") for one in file.protocols],
        "samples": file.samples,
        "split": file.split,
        "device": device,
        "reuse": str(out.resolve()) if reuse else None,
    }
    return Job(cell.name, work, arguments)


def _judged(place: RunFolder, cell: Cell, names: Sequence[str]) -> bool:
    """By every protocol, or trained where there is none. Weights are not asked for: results outlast them."""
    run = RunFolder(place.path / cell.name)
    return all((run.evaluations / f"{name}.json").exists() for name in names) if names else run.weights.exists()


def _claim(place: RunFolder, file: Sweep, cells: Sequence[Cell], *, resume: bool) -> None:
    """Write sweep.json, or check that a sweep that is to be resumed has the same cells and protocols."""
    record = place.path / "sweep.json"
    judging = file.model_dump(mode="json", include={"protocols", "samples", "split"})
    whole = {**judging, "cells": {cell.name: cell.run.model_dump(mode="json", exclude={"about"}) for cell in cells}}
    if not record.exists():
        if taken := next((path for path in sorted(place.path.iterdir()) if path.name != ".lock"), None):
            raise Refused(f"{place.path} is no sweep and holds {taken.name}; choose another folder with --out")
        write_json(record, {"schema": SCHEMA, "about": file.about, **whole})
        return
    if not resume:
        raise Refused(f"{place.path} already holds a sweep; add --resume to go on with it or choose another folder with --out")
    try:
        stored = dict(json.loads(record.read_text()))
    except (ValueError, TypeError) as error:
        raise Refused(f"{record} is damaged ({error}); restore it, or choose another folder with --out") from None
    if stored.get("schema") != SCHEMA:
        raise Refused(f"{record} was written with schema {stored.get('schema')}, this version reads {SCHEMA}; sweep again")
    judged = any(any(RunFolder(place.path / cell.name).evaluations.glob("*.json")) for cell in cells)
    fixed = whole if judged else {"cells": whole["cells"]}  # a protocol that did not fit the first cell may be another now
    if changed := differences({key: stored.get(key) for key in fixed}, fixed):
        raise Refused(f"{place.path} was started with another file ({changed[0]}); go on with the same, or use another --out")
    if not judged:
        write_json(record, {**stored, **judging})
