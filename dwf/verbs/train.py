"""`dwf train`: a run becomes a run folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.files import sweep
from dwf.core.journal import Journal, Listener
from dwf.executors import Executor
from dwf.run import Loaded, Run, RunFolder, load
from dwf.training.checkpoint import Store, save_weights, weights_of
from dwf.training.loop import train as train_phases
from dwf.verbs.aside import Apart, learn_apart
from dwf.verbs.prepared import Prepared, prepare


def train(
    run: Run,
    folder: Path | str,
    *,
    device: str = "auto",
    resume: bool = False,
    listeners: Sequence[Listener] = (),
    executor: Executor | None = None,
    reuse: Path | None = None,
) -> Loaded:
    """Train `run` into `folder` and load the result; `resume` continues an interrupted run exactly where it stood.

    `executor`: learns phases that need nothing of each other side by side; None: all here, one after another. `reuse`: a folder of
    runs whose finished phases are taken over where everything that decides them is the same. Under torchrun every process calls
    this; rank 0 writes, and processes that torchrun has started anew resume. Raises `Refused` for bad data, settings and folders.
    """
    place, where = RunFolder(Path(folder)), ranks.pick_device(device)
    with ranks.together(where):
        if executor is not None and ranks.world() > 1:
            raise Refused("under torchrun all ranks learn each phase together; leave --executor out, or start dwf without torchrun")
        with place.locked() if ranks.rank() == 0 else nullcontext():
            _train(prepare(run, where, reuse, place), place, resume or ranks.restarted(), Apart(executor, device, reuse), listeners)
    return load(place.path, where)


def _train(prepared: Prepared, place: RunFolder, resume: bool, apart: Apart, listeners: Sequence[Listener]) -> None:
    main, store, began = ranks.rank() == 0, Store(place.path), time.monotonic()
    data, phases = prepared.about["data"], prepared.phases
    if main:
        place.claim(prepared.run, prepared.spec, prepared.about, resume=resume)
        sweep(place.path)
    ranks.barrier()
    if place.weights.exists():
        return
    if ranks.world() == 1:
        learn_apart(prepared.run, place, phases, apart, listeners)
    keep = store.journal_bytes([p.name for p in phases])
    with closing(Journal(place.journal if main else None, listeners if main else (), keep_bytes=keep)) as journal:
        journal.show(event="data", train=data["train"], validation=data["validation"], skipped=data["skipped"])
        train_phases(phases, prepared.harness(store, journal))
        journal.write(event="done", seconds=round(time.monotonic() - began, 3))
    if main:
        save_weights(place.weights, weights_of(prepared.model))
        store.drop()
        shutil.rmtree(place.asides, ignore_errors=True)
    ranks.barrier()
