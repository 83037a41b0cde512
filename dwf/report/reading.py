"""From run folders to what the figures need: the record, the journal, the results. Files are read, never a model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dwf.core import journal
from dwf.core.errors import Refused
from dwf.core.journal import Record
from dwf.core.record import FOREIGN, read_record
from dwf.core.result import Result, WorstCase, called, from_json


@dataclass(frozen=True)
class Evaluated:
    """One evaluation of one run, with everything that lies beside it."""

    run: str
    """The run's name, made distinct from the other runs of the same report and from itself under other settings."""
    name: str
    """The evaluation's name: `table3`, `table3-eps0.02`."""
    folder: Path
    """The run folder, as the user wrote it."""
    record: Mapping[str, Any]
    """run.json."""
    journal: tuple[Record, ...]
    """train.jsonl; empty where there is none."""
    result: Result
    images: Path | None
    """`eval/<name>.images.npz` where there is one."""
    plan: Mapping[str, Any] | None = None
    """plan.json, what the run was expected to cost, where it was asked beforehand."""

    @property
    def method(self) -> str:
        """The kind of the method, such as `dwf`."""
        return self.result.model.method

    @property
    def protocol(self) -> str:
        """The protocol without its settings: `table3`, `full`."""
        return self.result.protocol.name

    @property
    def base(self) -> str:
        """The run's name without the mark of a seed: `dwf` of `dwf-seed3`."""
        return re.sub(r"[-_ ]*seed[-_ ]*\d+$", "", str(self.record["name"]))

    @property
    def tag(self) -> str:
        """The settings that differ from the protocol's own, other than its threat: `steps10`; empty where none does."""
        own = self.name.partition("@")[0].removeprefix(self.protocol)  # after the mark stand the model's own
        return re.sub(r"-(eps[\d.e-]+|norm[a-z0-9]+)(?=-|$)", "", own).strip("-")

    @property
    def standardised(self) -> bool:
        """Whether radii are lengths in the standardised space, and not of pixels."""
        return any(entry.space != "pixel" for entry in self.result.attacks)

    @property
    def foreign(self) -> Mapping[str, Any] | None:
        """What is known of a model that was not trained here; None for a run."""
        about = self.record["settings"].get("method")
        return about if isinstance(about, dict) and about.get("kind") == FOREIGN else None

    @property
    def headline(self) -> WorstCase | None:
        """The worst case that the protocol puts first; None if it measured none."""
        return self.result.worst_case[0] if self.result.worst_case else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(map(str, self.record["spec"].get("classes", ())))


def read(folder: Path, phase: str | None = None) -> list[Evaluated]:
    """Every evaluation of a run folder, or of what one of its phases made, by name.

    Raises `Refused` for a folder that is missing, foreign or not evaluated.
    """
    record = read_record(folder)
    place = folder / "phases" / phase if phase else folder
    files = sorted((place / "eval").glob("*.json"), key=lambda file: file.stem)
    if not files:
        raise Refused(f"run {folder} has no evaluation to report; evaluate it first: dwf evaluate {folder} --protocol table3")
    history = _journal(folder / "train.jsonl")
    expected = folder / "plan.json"
    plan = _plan(expected) if expected.is_file() else None
    return [
        Evaluated(
            run=called(f"{record['name']} {phase or ''}".strip(), result.model.overridden),
            name=file.stem,
            folder=folder,
            record=record,
            journal=history,
            result=result,
            images=_existing(file.with_suffix(".images.npz")),
            plan=plan,
        )
        for file in files
        for result in [from_json(_json(file, "evaluate the run again"), where=file)]
    ]


def read_all(folders: Sequence[Path]) -> list[Evaluated]:
    """The evaluations of several runs. Runs that share a name are told apart by their folders."""
    unique = list({folder.resolve(): folder for folder in folders}.values())
    if not unique:
        raise Refused("there is no run to report; name at least one run folder")
    runs = [read(folder) for folder in unique]
    names = Counter(name for run in runs for name in {one.run for one in run})
    return [
        replace(evaluated, run=f"{evaluated.run} ({folder})") if names[evaluated.run] > 1 else evaluated
        for folder, run in zip(unique, runs, strict=True)
        for evaluated in run
    ]


def by_run(evaluated: Iterable[Evaluated]) -> list[Evaluated]:
    """An evaluation of each run, for what belongs to the run itself: one of the model as it was trained, if there is any."""
    found: dict[Path, Evaluated] = {}
    for one in evaluated:
        kept = found.setdefault(one.folder, one)
        if kept.result.model.overridden and not one.result.model.overridden:
            found[one.folder] = one
    return list(found.values())


def _journal(path: Path) -> tuple[Record, ...]:
    return tuple(journal.read(path)) if path.is_file() else ()


def _plan(path: Path) -> Mapping[str, Any]:
    remedy = "make it again with dwf plan, or remove it"
    plan = _json(path, remedy)
    phases = plan.get("phases") if isinstance(plan, dict) else None
    if not isinstance(phases, list) or not all(isinstance(phase, dict) and {"name", "seconds"} <= phase.keys() for phase in phases):
        raise Refused(f"{path} is no plan, it lists no phases with their seconds; {remedy}")
    if not all(isinstance(plan.get(part), dict) for part in ("settings", "environment")):
        raise Refused(f"{path} is damaged, it lacks settings or environment; {remedy}")
    return dict(plan)


def _json(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise Refused(f"{path} is damaged, it is not JSON; {remedy}") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}); {remedy}") from None


def _existing(path: Path) -> Path | None:
    return path if path.is_file() else None
