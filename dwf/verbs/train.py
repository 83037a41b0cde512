"""`dwf train`: a run becomes a run folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.files import sweep
from dwf.core.journal import Journal, Listener
from dwf.core.seeds import derive
from dwf.data import Feed, ordered, specify, subset
from dwf.models.inference import attack_precision
from dwf.run import Loaded, Run, RunFolder, build, environment, load
from dwf.training.checkpoint import Store, save_weights, weights_of
from dwf.training.loop import Harness
from dwf.training.loop import train as train_phases
from dwf.training.mover import precision_of
from dwf.training.plan import Phase


def train(
    run: Run, folder: Path | str, *, device: str = "auto", resume: bool = False, listeners: Sequence[Listener] = ()
) -> Loaded:
    """Train `run` into `folder` and load the result; `resume` continues an interrupted run exactly where it stood.

    Under torchrun every process calls this; rank 0 writes. Raises `Refused` for bad data, settings and folders.
    """
    place, where = RunFolder(Path(folder)), ranks.pick_device(device)
    with ranks.together(where):
        if ranks.rank() == 0:
            with place.locked():
                _train(run, place, where, resume, listeners)
        else:
            _train(run, place, where, resume, ())
    return load(place.path, where)


def _train(run: Run, place: RunFolder, device: torch.device, resume: bool, listeners: Sequence[Listener]) -> None:
    main = ranks.rank() == 0
    images, held_out = run.data.training(derive(run.seed, "split"))
    validation = subset(held_out, min(run.validation.samples, len(held_out)), derive(run.seed, "validation")).to(device)
    spec, images = specify(images), images.to(device)
    precision = precision_of(run.train.precision, attack_precision(device))
    model = build(run, spec, device)
    phases = run.method.phases(model)
    store = Store(place.path)

    def feed(phase: Phase) -> Feed:
        seed = derive(run.seed, "feed", phase.name)
        return Feed(images, phase.batch, seed, run.data.crop, run.data.flip, parts=run.train.accumulate)

    for phase in phases:  # what does not fit is refused before the folder is claimed
        if phase.parts > (batches := len(feed(phase).epoch(0))):
            raise Refused(
                f"phase '{phase.name}' cuts its epochs into {phase.parts} parts, but they have {batches} batches; use fewer"
            )
    if main:
        about = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "data": {
                "name": images.name,
                "sha256": images.sha256,
                "train": len(images),
                "validation": len(held_out),
                "skipped": images.skipped,
            },
            "environment": environment(device, str(precision).removeprefix("torch.")),
            "ranks": ranks.world(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        place.claim(run, spec, about, resume=resume)
        sweep(place.path)
    ranks.barrier()
    if place.weights.exists():
        return
    began = time.monotonic()

    scorer = run.validation.scorer(partial(ordered, validation, 250), precision, derive(run.seed, "validation"))
    keep = store.journal_bytes([p.name for p in phases])
    with closing(Journal(place.journal if main else None, listeners, keep_bytes=keep)) as journal:
        journal.show(event="data", train=len(images), validation=len(held_out), skipped=images.skipped)
        train_phases(phases, Harness(store, feed, scorer, journal, run.train, precision, run.seed))
        journal.write(event="done", seconds=round(time.monotonic() - began, 3))
    if main:
        save_weights(place.weights, weights_of(model))
        store.drop()
    ranks.barrier()
