"""A run made ready to learn: its images in place, its model built, its phases checked against both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dwf.core import heap, ranks
from dwf.core.errors import Refused
from dwf.core.fingerprint import sources
from dwf.core.journal import Journal
from dwf.core.seeds import derive
from dwf.core.types import Images, Spec
from dwf.data import Feed, ordered, specify, subset
from dwf.models.compiled import is_compiled
from dwf.models.inference import attack_precision
from dwf.run import Run, RunFolder, build, environment
from dwf.training.checkpoint import Store
from dwf.training.loop import Harness, Validate
from dwf.training.memory import VALIDATION, Measures
from dwf.training.mover import precision_of
from dwf.training.plan import Phase
from dwf.training.reuse import Shelf
from dwf.verbs.compiling import compile_phases
from dwf.verbs.fitting import measures

CODE = ("core", "data", "models", "attacks", "training", "methods", "evaluation/validation.py", "run.py", "verbs/prepared.py")
"""Parts of the package that decide what a phase makes."""


@dataclass(frozen=True)
class Prepared:
    """What a process needs to train a run, or some of its phases."""

    run: Run
    images: Images
    """To train on."""
    spec: Spec
    model: nn.Module
    phases: Sequence[Phase]
    validate: Validate
    precision: torch.dtype
    about: Mapping[str, Any]
    """For run.json: data, parameters, versions."""
    shelf: Shelf
    measures: Mapping[str, Measures]
    """By phase, how it stays below a memory cap; empty without one."""

    def feed(self, phase: Phase) -> Feed:
        """The batches of a phase."""
        run, data = self.run, self.run.data
        parts = run.train.accumulate * (self.measures[phase.name].parts if self.measures else 1)
        return Feed(self.images, phase.batch, derive(run.seed, "feed", phase.name), data.crop, data.flip, parts=parts)

    def harness(self, store: Store, journal: Journal) -> Harness:
        """What the loop needs."""
        run = self.run
        return Harness(store, self.feed, self.validate, journal, run.train, self.precision, run.seed, self.shelf, self.measures)


def prepare(run: Run, device: torch.device, reuse: Path | None = None, place: RunFolder | None = None) -> Prepared:
    """Load and build; `reuse`: a folder of runs whose finished phases may be taken over; `place`: where the run may stand already.

    Raises `Refused` for bad data, and for settings that do not fit it.
    """
    images, held_out = run.data.training(derive(run.seed, "split"))
    validation = subset(held_out, min(run.validation.samples, len(held_out)), derive(run.seed, "validation")).to(device)
    spec, images = specify(images), images.to(device)
    precision = precision_of(run.train.precision, attack_precision(device))
    capped = measures(run, images, spec, precision, place)
    if not capped:
        heap.keep()
    model = build(run, spec, device, fetch=True)
    phases = run.method.phases(model)
    compile_phases(run.train.compile, phases, images)
    about = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": {
            "name": images.name,
            "sha256": images.sha256,
            "train": len(images),
            "validation": len(held_out),
            "skipped": images.skipped,
        },
        "environment": environment(device, str(precision).removeprefix("torch."), is_compiled(model)),
        "ranks": ranks.world(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **({"memory": {name: asdict(each) for name, each in capped.items()}} if capped else {}),
    }
    at_once = min((each.validation for each in capped.values()), default=VALIDATION)
    parts = {name: each.parts for name, each in capped.items()}
    prepared = Prepared(
        run,
        images,
        spec,
        model,
        phases,
        run.validation.scorer(partial(ordered, validation, at_once), precision, derive(run.seed, "validation")),
        precision,
        about,
        Shelf(_circumstances(run, spec, about), run.method.model_dump(mode="json"), reuse, parts),
        capped,
    )
    for phase in prepared.phases:  # what does not fit is refused before a folder is claimed
        if phase.parts > (batches := len(prepared.feed(phase).epoch(0))):
            raise Refused(
                f"phase '{phase.name}' cuts its epochs into {phase.parts} parts, but they have {batches} batches; use fewer"
            )
    return prepared


def _circumstances(run: Run, spec: Spec, about: Mapping[str, Any]) -> dict[str, Any]:
    """What decides every phase alike. Where the images lie decides nothing, what they are does."""
    return {
        "seed": run.seed,
        "data": {"sha256": about["data"]["sha256"], **run.data.model_dump(mode="json", exclude={"source"})},
        "spec": spec.model_dump(mode="json"),
        "train": run.train.model_dump(mode="json", exclude={"memory"}),
        "validation": run.validation.model_dump(mode="json"),
        "environment": {name: about["environment"][name] for name in ("torch", "device", "precision", "compiled")},
        "ranks": about["ranks"],
        "timm": version("timm") if '"kind":"timm"' in run.method.model_dump_json() else None,
        "code": sources(Path(str(files("dwf"))), CODE),
    }
