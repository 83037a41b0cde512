"""Warm experts wait for their source, learn side by side after it, the dearest first, and are found again by other cells."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dwf.cells import Sweep
from dwf.core import journal
from dwf.executors import Job, Local, Outcome, Tell
from dwf.run import Run
from dwf.verbs import sweep, train

SMALL: dict[str, Any] = {
    "data": {"source": {"kind": "digits", "size": 8}, "limit": 150, "crop": 1, "flip": False},
    "train": {"average": 0.9, "select": "best_ra", "patience": 1},
    "validation": {"samples": 10, "steps": 1},
}
METHOD: dict[str, Any] = {
    **{"kind": "dwf", "backbone": {"kind": "resnet", "depth": 10, "width": 2}, "gate": {"hidden": 8}, "pgd_steps": [1, 2]},
    "experts": {"epochs": 2, "batch": 50},
    "joint": {"epochs": 1, "batch": 50},
    "warm": {"epochs": 1, "batch": 50},
}


def run(**method: Any) -> Run:
    return Run.read({**SMALL, "method": {**METHOD, **method}})


class Waves:
    """Does the jobs here, and remembers which it was given together."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[tuple[Job, Outcome]]:
        """In their order."""
        self.seen.append([job.name for job in jobs])
        yield from Local().run(jobs, tell)


def made(folder: Path) -> Mapping[str, Any]:
    """Weights, what decided them, and the journal without its times."""
    files = [*folder.rglob("*.safetensors"), *folder.rglob("decided.json")]
    told = [{k: v for k, v in record.items() if k != "seconds"} for record in journal.read(folder / "train.jsonl")]
    return {**{str(file.relative_to(folder)): file.read_bytes() for file in files}, "journal": json.dumps(told)}


@pytest.mark.parametrize(("method", "waves"), [
    ({"warm_start": "benign", "fgsm": 1, "pgd": 1}, [["benign-1"], ["pgd-1", "fgsm-1"]]),
    ({"warm_start": "kind", "fgsm": 2, "pgd": 2}, [["pgd-1", "fgsm-1", "benign-1"], ["pgd-2", "fgsm-2"]]),
    ({"warm_start": "benign", "fgsm": 0, "pgd": 1}, []),
], ids=["benign", "kind", "a chain"])  # fmt: skip
def test_experts_learn_side_by_side_as_soon_as_their_source_is_there(
    method: dict[str, Any], waves: list[list[str]], tmp_path: Path
) -> None:
    train(run(**method), tmp_path / "here", device="cpu")
    executor = Waves()
    train(run(**method), tmp_path / "apart", device="cpu", executor=executor)
    assert executor.seen == waves
    assert made(tmp_path / "apart") == made(tmp_path / "here")


def test_cells_share_sources_and_warm_experts_that_are_the_same(tmp_path: Path) -> None:
    settings = [
        *('data.source={kind="digits",size=8}', "data.limit=150", "validation.samples=10", "validation.steps=1"),
        *("method.backbone.width=2", "method.fgsm=1", "method.pgd=1", "method.pgd_steps=[1]", "method.experts.epochs=1"),
        *("method.experts.batch=50", "method.joint.epochs=1", "method.joint.batch=50"),
    ]
    warm = ["method.warm_start='benign'", "method.warm={epochs=1, batch=50}"]
    cells = [
        {"name": "cold"},
        {"name": "warm", "set": warm},
        {"name": "again", "set": [*warm, "method.gate_learning_rate=0.2"]},
        {"name": "other", "set": [*warm, "method.experts.epochs=2"]},
    ]
    asked = Sweep.read({"preset": "dwf-digits", "set": settings, "cells": cells, "protocols": []})
    assert sweep(asked, tmp_path / "out", device="cpu").failed == {}
    assert {name: reused(tmp_path / "out" / name) for name in ("cold", "warm", "again", "other")} == {
        "cold": {},
        "warm": {"benign-1": "cold/phases/benign-1"},
        "again": {"benign-1": "cold/phases/benign-1", "fgsm-1": "warm/phases/fgsm-1", "pgd-1": "warm/phases/pgd-1"},
        "other": {},
    }


def reused(folder: Path) -> dict[str, str]:
    """Phase -> whose it was first."""
    return {r["phase"]: r["reused_from"] for r in journal.read(folder / "train.jsonl") if "reused_from" in r}
