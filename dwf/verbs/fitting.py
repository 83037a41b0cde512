"""How a run stays below `train.memory`: each kind of phase counted on a model that is thrown away before the real one is built."""

from __future__ import annotations

import gc
import json
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.heap import give_back, held
from dwf.core.settings import sized
from dwf.core.types import Batch, Images, Recompute, Spec
from dwf.data import ordered
from dwf.methods import Free
from dwf.run import Run, RunFolder, build
from dwf.training.calibration import kept
from dwf.training.footprint import Footprint, resident, tellable
from dwf.training.memory import MODES, VALIDATION, Demand, Measures, choose, recomputing
from dwf.training.plan import Phase

ASSUMED = 2**30
"""Bytes of PyTorch and its libraries where the system does not say: on a GPU a CUDA context and cuDNN, on macOS the process."""
STEP = 64 * 2**20
"""What the process held before is rounded up to so many bytes, so that the same run decides alike another time; half of it is added
first, for pages of libraries that nothing has touched by then."""
COMPILER = 256 * 2**20
"""Bytes that torch.compile and the code that it makes take; measured: 220 MiB. Whether a run compiles is decided later."""
COPIES = 3
"""Of what is written while a file is made: in order, as bytes, and as the file's bytes."""


def measures(run: Run, images: Images, spec: Spec, precision: torch.dtype, place: RunFolder | None) -> dict[str, Measures]:
    """Phase -> how it stays below `run.train.memory`; empty without a cap. A run that stands in `place` goes on as it began.

    `images`: on the device where it trains. Under torchrun rank 0 decides for all. Raises `Refused` if a phase cannot stay below,
    with the least that would do.
    """
    if run.train.memory is None:
        return {}
    answer: dict[str, Any] = {}
    if ranks.rank() == 0:
        answer = _stored(run, place) or _answer(run, images, spec, precision, ranks.world())
    answer = json.loads(ranks.told(json.dumps(answer)))
    if "refused" in answer:
        raise Refused(answer["refused"])
    return {name: Measures(**each) for name, each in answer.items()}


def _stored(run: Run, place: RunFolder | None) -> dict[str, Any]:
    """How this run began; empty where it has not, or where another run stands, which is refused later."""
    if place is None or not place.record.exists():
        return {}
    record = place.describe()
    return record.get("memory", {}) if record["settings"] == run.model_dump(mode="json") else {}


def _answer(run: Run, images: Images, spec: Spec, precision: torch.dtype, share: int) -> dict[str, Any]:
    """The measures of each phase as they stand in run.json, or why there are none. `share`: ranks that share each batch."""
    with ranks.alone():  # the others wait for the answer and take no step
        try:
            return {name: asdict(each) for name, each in _fit(run, images, spec, precision, share).items()}
        except Refused as refusal:
            return {"refused": str(refusal)}
        finally:
            give_back(at_once=False)


def _fit(run: Run, images: Images, spec: Spec, precision: torch.dtype, share: int) -> dict[str, Measures]:
    cap = run.train.memory
    assert cap is not None
    device = images.pixels.device
    thrifty = give_back(at_once=True) and device.type == "cpu"
    model = build(run, spec, device)
    # One image, several times: a router sends all to one expert, which is the most that one expert can have to do.
    (batch,) = ordered(images.take(torch.zeros(rows := tellable(model), dtype=torch.int64, device=device)), rows)
    counting = _Counting(run, model, images, batch, precision, share)
    found: dict[Hashable, Measures] = {}
    named: dict[str, Measures] = {}
    for phase in run.method.phases(model):
        if (key := phase.likeness) not in found:
            size = phase.batch // share // run.train.accumulate
            modes = MODES if recomputing(phase.subject) else MODES[:1]
            least = Measures(thrifty=thrifty, validation=min(VALIDATION, run.validation.samples))
            found[key] = choose(cap, partial(counting.demand, phase), modes=modes, batch=size, parts=_parts(run, size), least=least)
        named[phase.name] = found[key]
    worst = max(named, key=lambda name: named[name].expected)
    if named[worst].expected > cap:
        raise _too_little(cap, worst, named[worst])
    return named


def _moved(phase: Phase) -> Iterator[list[nn.Parameter]]:
    """What each learner of the phase moves."""
    for learner in phase.learners.values():
        yield [parameter for group in learner.groups for parameter in group.parameters]


def _parts(run: Run, batch: int) -> Sequence[int]:
    """Into how many pieces a batch may be cut; batch-norm needs two images."""
    if isinstance(run.method, Free):  # takes a step after every replay
        return (1,)
    return [1, *(parts for parts in range(2, batch // 2 + 1) if batch % parts == 0)]


@dataclass(frozen=True)
class _Counting:
    """A model that is used up by it, and a few images."""

    run: Run
    model: nn.Module
    images: Images
    """All of them: they take memory too."""
    batch: Batch
    precision: torch.dtype
    share: int
    """Ranks that share each batch."""

    def demand(self, phase: Phase, mode: Recompute) -> Demand:
        """What `phase`, one of the model's, takes with its experts computed again to some degree."""
        subject, cpu = phase.subject, self._on_cpu
        Measures(thrifty=True, recompute=mode).apply(subject)
        step = kept(phase, self.batch, self.precision)
        with Footprint(subject, len(self.batch.y)) as validation:
            # More steps of an attack need no more memory.
            score = self.run.validation.model_copy(update={"steps": 1}).scorer(lambda: iter([self.batch]), self.precision, 0)
            score(subject)
        weights = resident(subject)
        best = cpu and self.run.train.select != "last"
        average = 2 if self.run.train.average is not None else 0  # and what it stands in for while it is validated
        copies = weights + COPIES * max(weights, step.optimizers) if cpu else 0  # a GPU's are made in the host's memory
        gradients = max(sum(p.nbytes for p in group) for group in _moved(phase))
        message = 2 * gradients if self.share > 1 else 0
        return Demand(
            before=self._before(),
            model=resident(self.model) + (best + average) * weights,
            step=step.memory,
            optimizers=step.optimizers,
            validation=validation,
            between=max(copies, message),
            waiting=gradients,
            accumulates=self.run.train.accumulate > 1,
        )

    def _before(self) -> int:
        """Bytes of the process without the model: PyTorch, the images, the code that libraries make for their first step."""
        gc.collect()
        give_back(at_once=True)
        used = held() if self._on_cpu else None
        bare = ASSUMED + self.images.pixels.nbytes if used is None else used - resident(self.model)
        compiler = COMPILER if self.run.train.compile != "never" else 0
        return -(-(bare + compiler + STEP // 2) // STEP) * STEP

    @property
    def _on_cpu(self) -> bool:
        return self.images.pixels.device.type == "cpu"


def _too_little(cap: int, phase: str, least: Measures) -> Refused:
    how = [
        *(["one expert at a time"] if least.recompute != "never" else []),
        *([f"its batches in {least.parts} parts"] if least.parts > 1 else []),
    ]
    said = f", with {' and '.join(how)}" if how else ""
    return Refused(
        f"'train.memory' is {sized(cap)}, but phase '{phase}' takes at least {sized(least.expected)}{said}; "
        "allow that much, or train smaller nets"
    )
