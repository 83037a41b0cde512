"""What the cells of a sweep scored on the images that they held out: by this one chooses among them, and reads no test image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dwf.core import journal
from dwf.core.files import write_json
from dwf.core.journal import Record
from dwf.core.record import read_record
from dwf.core.types import Spec
from dwf.run import Run, RunFolder, build

SCHEMA = "dwf.validation/1"


class Validated(NamedTuple):
    """A finished cell after the round whose weights its last phase kept."""

    cell: str
    sa: float
    fgsm: float
    ra: float
    n: int
    round: int
    """From 1."""
    rounds: int
    seconds: float
    """Of training, all phases together; those that another cell learnt are in it."""


def validated(folders: Sequence[Path]) -> list[Validated]:
    """One line a cell, as the journals have it; accuracies in [0, 1].

    Left out are cells whose journal is damaged or does not tell, and those whose last phase learns a part of the model, because
    no phase scored the whole: frozen experts under a uniform gate.
    """
    return [line for folder in folders if (line := _line(folder)) is not None]


def write_validated(folders: Sequence[Path], to: Path) -> list[Validated]:
    """`to`: the lines with each cell's seed, data, device and versions as JSON."""
    lines = validated(folders)
    records = {folder.name: read_record(folder) for folder in folders}
    write_json(to, {"schema": SCHEMA, "cells": [{**line._asdict(), **_circumstances(records[line.cell])} for line in lines]})
    return lines


def _line(folder: Path) -> Validated | None:
    try:
        rounds = [record for record in journal.read(RunFolder(folder).journal) if record.get("event") == "round"]
    except (OSError, ValueError):  # a sweep of many hours does not end for the sake of a table
        return None
    record = read_record(folder)
    last = [one for one in rounds if one["phase"] == rounds[-1]["phase"]]
    if _of_a_part(record) or (kept := _kept(last, record["settings"]["train"]["select"])) is None:
        return None
    scores, seconds = kept["validation"], sum(record["seconds"] for record in rounds)
    found = (scores["sa"], scores["fgsm"], scores["ra"], scores["n"], kept["round"] + 1, kept["rounds"], round(seconds, 3))
    return Validated(folder.name, *found)


def _of_a_part(record: dict[str, Any]) -> bool:
    """Whether the last phase made a part of the model, an expert perhaps: nobody validated the whole then."""
    run = Run.read(record["settings"], where="run.json")
    model = build(run, Spec.read(record["spec"], where="run.json"), torch.device("cpu"))
    return run.method.phases(model)[-1].subject is not model


def _kept(rounds: Sequence[Record], select: str) -> Record | None:
    """The round whose weights stayed; None where a phase chose and the journal, of an older version, does not say what."""
    if select == "last":
        return rounds[-1] if rounds else None
    return next((record for record in reversed(rounds) if "best" in record), None)


def _circumstances(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("seed", "data", "environment")}
