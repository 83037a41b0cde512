"""`dwf plan`: what a run will cost, before it is trained."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from dwf.core import heap, ranks
from dwf.core.errors import Refused
from dwf.core.files import writable, write_json
from dwf.core.seeds import derive
from dwf.core.types import Batch, Images, Spec
from dwf.data import Feed, ordered, specify, subset
from dwf.models.compiled import is_compiled
from dwf.models.inference import attack_precision
from dwf.run import Run, RunFolder, build, environment, read
from dwf.training.calibration import COUNTED, Counted, Load, calibrate, counted, paced
from dwf.training.footprint import resident
from dwf.training.memory import VALIDATION, Measures
from dwf.training.mover import precision_of
from dwf.training.plan import Passes, Phase, kind_of
from dwf.verbs.compiling import compile_phases
from dwf.verbs.fitting import measures

PLAN_SCHEMA = 1
"""Of plan.json."""
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "RTX 4090": 165e12}
"""Dense bf16 operations a second, as the vendor's data sheets state them."""
SHARE = 0.3
"""Of the peak: assumed, not measured."""
LAUNCH = 10e-6
"""Seconds that a product holds a GPU up, however small it is, with the generated code around it: two launches of 5 us, assumed.
Narrow nets on 32 x 32 pixels are bound by that and not by the peak."""
TWO_CORES = 0.6e12
"""Operations a second of two server cores with bf16 matrix units: measured on a training step of ResNet-18 (docs/benchmarks.md,
`share`). Nets of width 16 reach half of it."""
PAPER = "dwf-cifar10"
"""The preset of the paper's own recipe."""
PAPER_HOURS = 240
"""GPU-hours on H100 that the paper states."""


class Work(NamedTuple):
    """Of a whole phase."""

    flops: float
    products: float
    """Convolutions and matrix products."""


@dataclass(frozen=True)
class PhaseCost:
    """Of one phase."""

    name: str
    rounds: int
    images: int
    """Clean images in all rounds together."""
    forwards: float
    """Passes for each of them, the attacks' among them."""
    backwards: float
    flops: float
    """In all."""
    products: float
    """Convolutions and matrix products of all steps."""
    memory: float
    """Bytes at the worst moment of a step, the model's own among them; the data set and PyTorch itself come on top."""
    seconds: float
    """On the device that was asked for, validation included."""
    measures: Measures | None = None
    """How it stays below a memory cap, which operations, memory and time know of; None without one."""

    @property
    def kind(self) -> str:
        """`pgd` for `pgd-3`."""
        return kind_of(self.name)

    @property
    def work(self) -> Work:
        """What any device has to do."""
        return Work(self.flops, self.products)


@dataclass(frozen=True)
class Plan:
    """Of one run."""

    run: str
    phases: tuple[PhaseCost, ...]
    data: int
    """Bytes of the data set on the device."""
    environment: Mapping[str, Any]

    @property
    def flops(self) -> float:
        """Of all phases."""
        return sum(phase.flops for phase in self.phases)

    @property
    def seconds(self) -> float:
        """One phase after another on the device that was asked for."""
        return sum(phase.seconds for phase in self.phases)


def plan(run: Run, folder: Path | str | None = None, *, device: str = "auto", budget: float = 3.0) -> Plan:
    """Count and time each kind of phase on a few images, about `budget` seconds each; nothing is trained.

    `folder`: also write plan.json there, which the report shows beside what the run cost. Raises `Refused` for bad data and
    settings.
    """
    where = ranks.pick_device(device)
    images, held_out = run.data.training(derive(run.seed, "split"))
    validation = subset(held_out, min(run.validation.samples, len(held_out)), derive(run.seed, "validation")).to(where)
    precision = precision_of(run.train.precision, attack_precision(where))
    spec, images = specify(images), images.to(where)
    capped = measures(run, images, spec, precision, None)
    if not capped:
        heap.keep()
    model = build(run, spec, where)
    phases = run.method.phases(model)
    compile_phases(run.train.compile, phases, images)
    loads: dict[Hashable, tuple[Load, float]] = {}
    costs = []
    for phase in phases:
        measured = capped.get(phase.name)
        batch = _batch(run, phase, images, measured.parts if measured else 1)
        if (key := phase.likeness) not in loads:
            if measured:
                measured.apply(phase.subject)
            loads[key] = calibrate(phase, batch, precision, budget), _validating(run, phase.subject, validation, precision, budget)
        load, validating = loads[key]
        passes, seconds = run.method.cost()[phase.kind], validating * len(validation)
        average = resident(phase.subject) if run.train.average is not None else 0
        cost = _cost(phase, passes, load, images=len(images), batch=len(batch.y), validation=seconds)
        costs.append(replace(cost, memory=resident(model) + average + cost.memory, measures=measured))
    place_and_versions = environment(where, str(precision).removeprefix("torch."), is_compiled(model))
    found = Plan(run.name, tuple(costs), images.pixels.numel(), place_and_versions)
    if folder is not None:
        place = RunFolder(Path(folder))
        with writable(place.path):
            place.path.mkdir(parents=True, exist_ok=True)
        write_json(place.plan, {"schema": PLAN_SCHEMA, **asdict(found), "settings": run.model_dump(mode="json")})
    return found


def operations(run: Run, spec: Spec) -> dict[str, float]:
    """Phase -> operations for each clean image that it trains on, attacks included; validation is not.

    Counted on a few images that mean nothing: needs no data and takes seconds, on whatever machine.
    """
    return {name: found.flops / COUNTED for name, found in _counted(run, spec).items()}


def _counted(run: Run, spec: Spec) -> dict[str, Counted]:
    """Phase -> a step on `COUNTED` images."""
    model = build(run, spec, torch.device("cpu"))
    batch = Batch(
        torch.rand(COUNTED, spec.channels, spec.height, spec.width),
        torch.arange(COUNTED) % len(spec.classes),
        torch.arange(COUNTED),
    )
    phases, each = run.method.phases(model), dict[Hashable, Counted]()
    for phase in phases:
        if phase.likeness not in each:
            each[phase.likeness] = counted(phase, batch, torch.bfloat16)
    return {phase.name: each[phase.likeness] for phase in phases}


def paper_work() -> list[Work]:
    """Each phase of the paper's recipe on 45,000 images of CIFAR-10."""
    run = read(PAPER, ["data.source=digits"])
    spec = Spec(classes=tuple("0123456789"), channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    each, found = _counted(run, spec), []
    for phase in run.method.phases(build(run, spec, torch.device("cpu"))):
        steps = 45_000 // phase.batch * phase.rounds / phase.parts
        found.append(Work(each[phase.name].flops / COUNTED * steps * phase.batch, each[phase.name].products * steps))
    return found


def elsewhere(works: Sequence[Work]) -> dict[str, float]:
    """Device -> seconds that these take there, one after another."""
    found = {name: sum(max(w.flops / (peak * SHARE), w.products * LAUNCH) for w in works) for name, peak in PEAK.items()}
    return {**found, "2 bf16 cores": sum(w.flops for w in works) / TWO_CORES}


def _batch(run: Run, phase: Phase, images: Images, parts: int) -> Batch:
    """The first batch of a phase, as large as the loop's."""
    feed = Feed(images, phase.batch, 0, run.data.crop, run.data.flip, parts=run.train.accumulate * parts)
    if phase.parts > (batches := len(feed.epoch(0))):
        raise Refused(f"phase '{phase.name}' cuts its epochs into {phase.parts} parts, but they have {batches} batches; use fewer")
    return next(iter(feed.epoch(0)))


def _validating(run: Run, subject: nn.Module, validation: Images, precision: torch.dtype, budget: float) -> float:
    """Seconds an image of the validation that ends each round."""

    def work(images: int) -> None:
        run.validation.scorer(partial(_some, validation, images), precision, 0)(subject)

    return paced(work, len(validation), budget / 2)


def _some(images: Images, count: int) -> Iterator[Batch]:
    return ordered(images.take(torch.arange(count)), VALIDATION)


def _cost(phase: Phase, passes: Passes, load: Load, *, images: int, batch: int, validation: float) -> PhaseCost:
    """`images`: of an epoch; `batch`: on this device at once; `validation`: seconds a round."""
    seen = images // phase.batch * phase.batch * phase.rounds // phase.parts
    return PhaseCost(
        phase.name,
        phase.rounds,
        seen,
        passes.forwards,
        passes.backwards,
        load.flops * seen,
        load.products * seen / batch,
        load.memory.peak(batch),
        load.seconds * seen + validation * phase.rounds,
    )
