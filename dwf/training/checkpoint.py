"""Nothing is lost: a checkpoint is one folder, synced, made current by a single rename.

`state/<number>/` holds what is needed to resume the phase in progress; the highest number is current. `phases/<name>/` holds what
a finished phase made, what decided it, and what the journal says of it, so that it can be learnt in a process of its own, or taken
over by another run. Weights and optimizer memory are safetensors, counters are JSON; nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.files import write_json, written, written_folder
from dwf.core.journal import Record, read
from dwf.core.wording import shortened
from dwf.training.reuse import DECIDED, NOBODY, WEIGHTS, Twin

_COUNTERS = "counters.json"
"""Of a checkpoint."""
_RECORD, _JOURNAL = "phase.json", "train.jsonl"
"""Of a finished phase: how it ended, and what the journal says of it."""


@dataclass(frozen=True)
class Counters:
    """Where a run stands, between two rounds."""

    phase: str
    rounds: int
    """Finished rounds of that phase."""
    journal_bytes: int
    """Length of the run's journal by then; 0 for a phase that was learnt elsewhere and is not written there yet."""
    best: float | None = None
    """Highest validation score so far; its weights lie beside."""
    best_round: int | None = None
    averaged: int = 0
    """Optimizer steps that the moving average has seen."""
    decided: str = ""
    """What had decided the phase when it began, as a checksum; other runs may take over only what went on under the same."""


@dataclass(frozen=True)
class Checkpoint:
    """One resumable moment."""

    counters: Counters
    weights: dict[str, Tensor]
    best: dict[str, Tensor]
    """The best round's weights; empty while there are none."""
    optimizers: dict[str, dict[str, Tensor]]
    average: dict[str, Tensor] = field(default_factory=dict)
    """The moving average of the weights; empty where none is kept."""


class Store:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, aside: Path | None = None) -> None:
        """`aside`: where one of several processes keeps its state, while all of them leave finished phases in `folder`."""
        self._state, self._phases, self._aside = (aside or folder) / "state", folder / "phases", aside is not None

    def save(self, checkpoint: Checkpoint) -> None:
        """Make `checkpoint` the current one and drop the older."""
        older = self._saved()
        number = int(older[-1].name) + 1 if older else 0
        with written_folder(self._state / f"{number:06d}") as beside:
            save_weights(beside / "weights.safetensors", checkpoint.weights)
            save_weights(beside / "best.safetensors", checkpoint.best)
            if checkpoint.average:
                save_weights(beside / "average.safetensors", checkpoint.average)
            flat = {f"{learner}/{key}": t for learner, memory in checkpoint.optimizers.items() for key, t in memory.items()}
            save_weights(beside / "optimizers.safetensors", flat)
            (beside / _COUNTERS).write_text(json.dumps(asdict(checkpoint.counters)))
        for folder in older:
            shutil.rmtree(folder)

    def current(self) -> Checkpoint | None:
        """The newest checkpoint, or None before the first."""
        counters = self.current_counters()
        if counters is None:
            return None
        folder = self._saved()[-1]
        optimizers: dict[str, dict[str, Tensor]] = {}
        for name, tensor in load_weights(folder / "optimizers.safetensors").items():
            learner, _, key = name.partition("/")
            optimizers.setdefault(learner, {})[key] = tensor
        return Checkpoint(
            counters,
            load_weights(folder / "weights.safetensors"),
            load_weights(folder / "best.safetensors"),
            optimizers,
            load_weights(averaged) if (averaged := folder / "average.safetensors").exists() else {},
        )

    def finish(
        self,
        counters: Counters,
        weights: dict[str, Tensor],
        records: Sequence[Record] = (),
        decided: str = NOBODY,
    ) -> None:
        """Store what a phase made, for good, with its journal and what decided it."""
        with written_folder(self._phases / counters.phase) as beside:
            save_weights(beside / WEIGHTS, weights)
            self._describe(beside, replace(counters, journal_bytes=0) if self._aside else counters, records)
            (beside / DECIDED).write_text(decided)

    def take_over(self, phase: str, twin: Twin) -> None:
        """Make what a finished phase of another run made this run's own; its records say whose they were first."""
        source = twin.folder
        records = [{**record, "reused_from": record.get("reused_from", twin.name)} for record in read(source / _JOURNAL)]
        with written_folder(self._phases / phase) as beside:
            _link(source / WEIGHTS, beside / WEIGHTS)
            _link(source / DECIDED, beside / DECIDED)
            self._describe(beside, replace(_counters(source), journal_bytes=0), records)

    def unwritten(self, phase: str) -> list[dict[str, Any]]:
        """The records of a phase that was learnt elsewhere, which the run's journal does not have yet."""
        finished = self.finished(phase)
        return list(read(self._phases / phase / _JOURNAL)) if finished and finished.journal_bytes == 0 else []

    def journaled(self, phase: str, journal_bytes: int) -> None:
        """They are in the run's journal now, which has this length."""
        folder = self._phases / phase
        write_json(folder / _RECORD, asdict(replace(_counters(folder), journal_bytes=journal_bytes)))

    def _describe(self, folder: Path, counters: Counters, records: Sequence[Record]) -> None:
        (folder / _RECORD).write_text(json.dumps(asdict(counters)))
        (folder / _JOURNAL).write_text("".join(json.dumps(record) + "\n" for record in records))

    def finished(self, phase: str) -> Counters | None:
        """How a finished phase ended; None while it has not."""
        folder = self._phases / phase
        return _counters(folder) if folder.exists() else None

    def weights(self, phase: str) -> dict[str, Tensor]:
        """What a finished phase made."""
        return load_weights(self._phases / phase / WEIGHTS)

    def journal_bytes(self, phases: Sequence[str]) -> int:
        """How much of the journal belongs to what is stored; the rest was written by a process that died before its checkpoint."""
        current = self.current_counters()
        ended = [counters for name in phases if (counters := self.finished(name))]
        return max([counters.journal_bytes for counters in [*ended, *([current] if current else [])]], default=0)

    def current_counters(self) -> Counters | None:
        """Where the newest checkpoint stands."""
        saved = self._saved()
        return _read(saved[-1] / _COUNTERS, "remove that folder to begin its phase again") if saved else None

    def drop(self) -> None:
        """The run is finished: nothing is left to resume."""
        shutil.rmtree(self._state, ignore_errors=True)

    def last_good(self) -> str:
        """The newest checkpoint in words, for error messages."""
        saved = self._saved()
        return str(saved[-1]) if saved else "none yet"

    def _saved(self) -> list[Path]:
        return sorted(folder for folder in self._state.glob("[0-9]*") if folder.is_dir())


def _counters(folder: Path) -> Counters:
    return _read(folder / _RECORD, "remove that folder to train its phase again")


def _read(path: Path, remedy: str) -> Counters:
    """Raises `Refused`, which ends in `remedy`, for a file that is missing, damaged or of another version."""
    try:
        return Counters(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise Refused(f"{path} is missing or damaged ({error}); {remedy}") from None


def _link(source: Path, target: Path) -> None:
    """A second name for a file that is never changed in place; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """The module's tensors as files hold them: contiguous, on the CPU, no longer changing."""
    return {name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format) for name, t in module.state_dict().items()}


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Named tensors as safetensors, under their final name only when complete."""
    with written(path) as beside:
        # Not `save_file`: its errors are no OSError, and a full disc could not be told from a damaged file.
        beside.write_bytes(safetensors.torch.save({name: t.contiguous() for name, t in weights.items()}))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file; raises `Refused` for a missing, truncated or foreign file."""
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:  # safetensors says so of files without rights too
        if path.exists():
            raise Refused(f"{path} cannot be read; repair its rights") from None
        raise Refused(f"{path} does not exist; train the run first, or resume it with --resume") from None
    except (SafetensorError, OSError) as error:
        raise Refused(f"{path} is damaged or no safetensors file ({error}); restore it or train the run again") from None


def install(module: nn.Module, weights: dict[str, Tensor], where: Path | str) -> None:
    """Load weights by name; raises `Refused` where names or shapes do not fit the settings."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise Refused(
            f"the weights in {where} do not fit the model of its settings: {shortened(first, 300)}; put back the run.json and the "
            "weights that were written together, or train the run again"
        ) from None
