"""Phases that need nothing of each other learn side by side, each in a process of its own.

A phase learns in `aside/<phase>/` of the run folder, where it has its own checkpoints and journal, and ends in `phases/<phase>/`
like any other; the run's journal takes its records over when its turn comes. The weights are those of the ordinary run, bit for
bit where the number of threads is the same, because everything random is a function of (seed, phase, round, batch, sample).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.files import sweep
from dwf.core.journal import Journal, Listener, Record
from dwf.executors import Executor, Job, Local
from dwf.run import Run, RunFolder
from dwf.training.checkpoint import Store
from dwf.training.loop import train
from dwf.training.plan import Phase
from dwf.verbs.prepared import prepare


class Apart(NamedTuple):
    """Where phases learn apart from their run."""

    executor: Executor | None
    """None: nowhere, but what was begun apart before an interruption is continued, here."""
    device: str
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`, as each process finds it."""
    reuse: Path | None
    """A folder of runs whose finished phases may be taken over."""


def learn_apart(run: Run, place: RunFolder, phases: Sequence[Phase], apart: Apart, listeners: Sequence[Listener]) -> None:
    """Learn what can be learnt apart; what waits for others one by one is left to the run. The caller holds the folder's lock.

    Raises `Refused` with the first failure, once the other phases have ended.
    """
    store, executor = Store(place.path), apart.executor or Local()

    def tell(phase: str, record: Record) -> None:
        for listener in listeners if record["event"] == "round" else ():
            listener({**record, "event": "apart"})

    dearest = sorted(phases, key=partial(passes, run), reverse=True)
    while names := _ready(dearest, store, place, everything=apart.executor is not None):
        jobs = [job(run, place, name, apart.device, apart.reuse) for name in names]
        failures = [f"phase '{done.name}': {outcome.error}" for done, outcome in executor.run(jobs, tell) if outcome.error]
        if failures:
            others = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
            raise Refused(f"{failures[0]}{others}; what is finished is kept, and --resume goes on")


def passes(run: Run, phase: Phase) -> float:
    """What a phase takes, in passes over the training images. The dearest begins first, or it would end alone beside idle cores."""
    return sum(run.method.cost()[phase.kind]) * phase.rounds / phase.parts


def _ready(phases: Sequence[Phase], store: Store, place: RunFolder, *, everything: bool) -> list[str]:
    """Phases that can begin now, if there are or will be several, and those begun apart. One that the run stands in stays there."""
    finished = {phase.name for phase in phases if store.finished(phase.name)}
    standing = store.current_counters()
    left = [phase for phase in phases if phase.name not in finished and (standing is None or phase.name != standing.phase)]
    ready = [phase.name for phase in left if finished.issuperset(phase.needs)]
    begun = [name for name in ready if place.aside(name).path.exists()]
    return ready if everything and (begun or _side_by_side(left, finished)) else begun


def _side_by_side(left: Sequence[Phase], finished: set[str]) -> bool:
    """Whether several will be ready at once, now or when what they wait for is done."""
    while ready := [phase for phase in left if finished.issuperset(phase.needs)]:
        if len(ready) > 1:
            return True
        finished = finished | {ready[0].name}
        left = [phase for phase in left if phase is not ready[0]]
    return False


def job(run: Run, place: RunFolder, phase: str, device: str, reuse: Path | None) -> Job:
    """The job of learning one phase."""
    arguments = {
        "run": run.model_dump(mode="json"),
        "folder": str(place.path.resolve()),
        "phase": phase,
        "device": device,
        "reuse": None if reuse is None else str(reuse.resolve()),
    }
    return Job(phase, learn, arguments)


def learn(tell: Listener, *, run: Mapping[str, Any], folder: str, phase: str, device: str, reuse: str | None) -> None:
    """Learn one phase of a run whose other phases learn elsewhere, from where it stands; those that it needs are finished."""
    chosen, place = Run.read(run), RunFolder(Path(folder))
    prepared = prepare(chosen, ranks.pick_device(device), None if reuse is None else Path(reuse), place)
    place.claim(chosen, prepared.spec, prepared.about, resume=True)
    if place.describe().get("memory") != prepared.about.get("memory"):  # who came first has decided how to stay below a cap
        prepared = prepare(chosen, ranks.pick_device(device), None if reuse is None else Path(reuse), place)
    side = place.aside(phase)
    with side.locked():
        sweep(side.path)
        store = Store(place.path, side.path)

        with closing(Journal(side.journal, [tell], keep_bytes=store.journal_bytes([]))) as journal:
            train(prepared.phases, prepared.harness(store, journal), only=[phase])
        shutil.rmtree(side.path)
