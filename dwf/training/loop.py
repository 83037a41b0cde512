"""The only training loop. Every method runs through `train`; none brings its own.

For each phase, for each round: the phase's generator draws batches, attacks and yields updates; the loop steps, logs, validates and
checkpoints. Everything random is a function of (seed, phase, round, batch, sample), so a resumed run equals the uninterrupted one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dwf.core import ranks
from dwf.core.journal import Journal
from dwf.core.seeds import derive
from dwf.core.settings import Limit, Settings
from dwf.core.types import Compile
from dwf.training.average import Average
from dwf.training.checkpoint import Checkpoint, Counters, Store, install, weights_of
from dwf.training.guard import covers, refuse_broken, refuse_nan
from dwf.training.memory import Measures
from dwf.training.mover import Mover
from dwf.training.plan import Feed, Phase, Update
from dwf.training.reuse import NOBODY, Shelf, checksum
from dwf.training.rounds import Round

Validate = Callable[[nn.Module], Mapping[str, float]]
"""Scores of a module on the validation split, the same on every rank: `sa`, `fgsm`, `ra` in [0, 1] and `n`."""


class Options(Settings):
    """How the loop runs, whatever the method."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of forward and backward passes; weights, perturbations and verdicts are always fp32. `auto`: bf16 where it is native."""
    compile: Compile = "auto"
    """Whether our nets run as code that torch.compile generates. `auto`: where it can and the run is long enough to gain."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that each batch is cut into, one optimizer step for all of them: less memory, but batch-norm sees only a part."""
    memory: Limit = None
    """Most bytes that the process, or on a GPU its part of the card, may take: "4GiB". Experts are computed again one by one, and
    batches cut into parts, as far as that needs (dwf/training/memory.py). None: as it comes."""
    clip: float | None = Field(default=None, gt=0)
    """Largest gradient norm of a step; None never clips."""
    select: Literal["last", "best_val", "best_ra"] = "last"
    """Which round's weights a phase keeps: its last, or that with the highest SA + RA, or RA (SA, where a phase learns clean images
    alone), on the validation split."""
    patience: int | None = Field(default=None, ge=1)
    """Rounds without a better score, by `select`, that end a phase before its time (Rice et al., ICML 2020); None: never."""
    average: float | None = Field(default=None, gt=0, lt=1)
    """Share of the past in a moving average of the weights, which is then validated and kept in their place; None: no average."""

    @model_validator(mode="after")
    def _patience_keeps_the_best(self) -> Self:
        if self.patience is not None and self.select == "last":
            raise ValueError(
                f"'train.patience' is {self.patience} and 'train.select' is 'last', which would keep the round after so many worse "
                "ones; set 'train.select' to 'best_ra' or 'best_val', or leave 'train.patience' out"
            )
        return self


@dataclass(frozen=True)
class Harness:
    """What the loop needs besides a method, and methods never see."""

    store: Store
    feed: Callable[[Phase], Feed]
    """The source of a phase's batches."""
    validate: Validate
    journal: Journal
    options: Options
    precision: torch.dtype
    seed: int
    shelf: Shelf = field(default_factory=Shelf)
    """Phases that other runs have finished."""
    measures: Mapping[str, Measures] = field(default_factory=dict)
    """By phase, how it stays below `options.memory`; empty without a cap."""


def train(phases: Sequence[Phase], harness: Harness, only: Collection[str] | None = None) -> None:
    """Train the phases that are not finished; on return their subjects hold the weights of all of them.

    `only`: names of those to train here, where other processes train the others. Raises `Refused` when a loss stops being a number.
    """
    store = harness.store
    for index, phase in enumerate(phases):
        mine = only is None or phase.name in only
        if mine and phase.start is not None and not store.finished(phase.name):
            phase.subject.load_state_dict(phase.start.state_dict())
        decided = harness.shelf.decided(phase) if mine and not store.finished(phase.name) else ""
        if decided:
            _take_over(phase, decided, harness)
        if store.finished(phase.name):
            install(phase.subject, store.weights(phase.name), f"phases/{phase.name}")
            if only is None:
                _journal(phase, {"index": index, "phases": len(phases)}, harness)
        elif mine:
            # A phase that goes on stands in the journal already.
            announce = harness.journal.show if _standing(phase, store) else harness.journal.write
            parameters = sum(p.numel() for p in phase.subject.parameters())
            place = {"phase": phase.name, "index": index, "phases": len(phases)}
            capped = {"memory": asdict(m)} if (m := harness.measures.get(phase.name)) else {}
            announce(event="phase", **place, rounds=phase.rounds, parameters=parameters, **capped)
            with holding(phase), _below(harness.measures.get(phase.name), phase.subject):
                _learn(phase, decided, harness)


@contextmanager
def _below(measures: Measures | None, subject: nn.Module) -> Iterator[None]:
    """What a phase does to stay below its cap, while it learns."""
    if measures is None:
        yield
        return
    measures.apply(subject)
    try:
        yield
    finally:
        Measures().apply(subject)


def _standing(phase: Phase, store: Store) -> bool:
    """Whether the store's checkpoint is one of this phase."""
    counters = store.current_counters()
    return counters is not None and counters.phase == phase.name


def _take_over(phase: Phase, decided: str, harness: Harness) -> None:
    """What another run made of the same becomes this run's own, unless it is halfway there by itself."""
    store = harness.store
    ranks.barrier()  # while somebody still looks whether the phase is there, it must not appear
    if ranks.rank() == 0 and not _standing(phase, store) and (twin := harness.shelf.find(phase.name, decided)):
        store.take_over(phase.name, twin)
    ranks.barrier()


def _journal(phase: Phase, place: Mapping[str, int], harness: Harness) -> None:
    """What was learnt elsewhere is written into the run's journal, once. `place`: where the phase stands in this run."""
    if ranks.rank() == 0 and (records := harness.store.unwritten(phase.name)):
        for record in records:
            harness.journal.write(**(record | dict(place) if record["event"] == "phase" else record))
        harness.store.journaled(phase.name, harness.journal.synced_bytes())


def _learn(phase: Phase, decided: str, harness: Harness) -> None:
    """The remaining rounds of one phase, from its last checkpoint to its final weights."""
    options, journal, accumulate = harness.options, harness.journal, harness.options.accumulate
    if measures := harness.measures.get(phase.name):
        accumulate *= measures.parts
    movers = {name: Mover(learner, accumulate, options.clip) for name, learner in phase.learners.items()}
    covers(phase, movers)
    feed, seed = harness.feed(phase), derive(harness.seed, phase.name)
    average = Average(phase.subject, options.average)
    at, best = _restore(phase, decided, harness.store, movers, average)
    while at.rounds < phase.rounds and not _over(at, options):
        number, began = at.rounds, time.monotonic()
        torch.manual_seed(derive(seed, "global", number, ranks.rank()))  # for layers that draw by themselves, such as dropout
        phase.subject.train()
        for module in phase.frozen:
            module.eval()
        epoch, part = divmod(number, phase.parts)
        drawn = feed.epoch(epoch, part, phase.parts)
        batches = Round(drawn, derive(seed, number), harness.precision, number, phase.rounds, accumulate)
        means = _round(phase, batches, movers, average, harness)
        refuse_broken(phase, number, harness.store)
        with average.shown():
            scores = harness.validate(phase.subject)
            score = scores["sa"] + scores["ra"] if options.select == "best_val" else scores[phase.goal]
            if better := options.select != "last" and (at.best is None or score > at.best):
                at, best = replace(at, best=score, best_round=number), weights_of(phase.subject)
        at = replace(at, rounds=number + 1, averaged=average.steps)
        marks = {"best": better, "stopped": at.rounds < phase.rounds and _over(at, options)}
        journal.write(
            event="round",
            phase=phase.name,
            round=number,
            rounds=phase.rounds,
            images=len(batches) * phase.batch // accumulate,
            learning_rate=next(iter(movers.values())).learning_rate,
            **means,
            validation=scores,
            seconds=round(time.monotonic() - began, 3),
            **{name: True for name, is_so in marks.items() if is_so},
        )
        at = replace(at, journal_bytes=journal.synced_bytes())
        if ranks.rank() == 0:
            memory = {name: mover.state() for name, mover in movers.items()}
            harness.store.save(Checkpoint(at, weights_of(phase.subject), best, memory, average.tensors))
        ranks.barrier()
    average.install()
    if best:
        install(phase.subject, best, "the checkpoint")
    if ranks.rank() == 0:
        # What began under other code or on another device is nobody's twin.
        by = decided if at.decided == checksum(decided) else NOBODY
        harness.store.finish(at, weights_of(phase.subject), journal.records(phase.name), by)
    ranks.barrier()


def _over(at: Counters, options: Options) -> bool:
    """Whether patience has run out: a function of the checkpoint, so that a resumed phase ends where it would have ended."""
    return options.patience is not None and at.best_round is not None and at.rounds - 1 - at.best_round >= options.patience


def _round(phase: Phase, batches: Round, movers: Mapping[str, Mover], average: Average, harness: Harness) -> dict[str, float]:
    """One round of updates; returns the means of what the phase logged."""
    store, journal, number = harness.store, harness.journal, batches.number
    device = next(phase.subject.parameters()).device
    updates = phase.round(phase.subject, batches)
    sums: dict[str, Tensor] = {}
    counts: Counter[str] = Counter()  # a learner's update need not log what another's does
    steps, shown = 0, time.monotonic()
    first_bad = torch.full((), torch.inf, device=device)
    while (update := advance(updates, batches.precision, device)) is not None:
        stepped = movers[update.learner].take(update, batches.progress)
        if ranks.world() > 1:
            ranks.average(phase.subject.buffers(), exact=True)
        if stepped:
            average.take()
        loss = update.loss.detach().float()
        steps += 1
        for name, value in {"loss": loss, **update.log}.items():
            sums[name] = sums.get(name, torch.zeros_like(loss)) + value
            counts[name] += 1
        # A NaN is noticed on the device and asked for now and then, so that this costs no step a wait for the host.
        first_bad = torch.where(loss.isfinite(), first_bad, first_bad.clamp(max=steps))
        if steps % 32 == 0 or device.type == "cpu":
            refuse_nan(first_bad, phase.name, number, store)
        if time.monotonic() - shown > 0.5:
            shown = time.monotonic()
            done, mean = batches.done / len(batches), (sums["loss"] / steps).item()
            journal.show(event="step", phase=phase.name, round=number, rounds=phase.rounds, done=done, loss=mean)
    refuse_nan(first_bad, phase.name, number, store)
    ranks.average(sums.values())
    return {name: round((total / counts[name]).item(), 6) for name, total in sums.items()}


def advance(updates: Iterator[Update], precision: torch.dtype, device: torch.device) -> Update | None:
    """The generator's next update, computed under autocast. The context closes before the step: its cached casts go stale there."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
        return next(updates, None)


def _restore(
    phase: Phase, decided: str, store: Store, movers: Mapping[str, Mover], average: Average
) -> tuple[Counters, dict[str, Tensor]]:
    """Where the phase stands and its best weights so far; subject, movers and average take over the checkpoint's state."""
    standing = store.current_counters()
    if standing is None or standing.phase != phase.name:  # asked first: another phase's tensors need not be read
        return Counters(phase.name, 0, 0, decided=checksum(decided)), {}
    saved = store.current()
    assert saved is not None
    install(phase.subject, saved.weights, "the checkpoint")
    for name, mover in movers.items():
        mover.restore(saved.optimizers.get(name, {}))
    average.restore(saved.average, saved.counters.averaged)
    return saved.counters, saved.best


@contextmanager
def holding(phase: Phase) -> Iterator[None]:
    """Nothing in `phase.frozen` requires a gradient while the phase learns."""
    held = [p for module in phase.frozen for p in module.parameters() if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
