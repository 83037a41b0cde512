"""Sweeps of seconds on digits, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dwf.cells import Sweep
from dwf.core import journal

COMMON = (
    'data.source={kind="digits",size=8}',
    "data.limit=150",
    "method.backbone.width=2",
    "method.fgsm=1",
    "method.pgd=1",
    "method.pgd_steps=[1]",
    "method.experts.epochs=1",
    "method.experts.batch=50",
    "method.joint.epochs=1",
    "method.joint.batch=50",
    "validation.samples=10",
    "validation.steps=1",
)
JUDGING = {
    "name": "table3",
    "set": ("protocol.steps=[1]", "protocol.final=2", "protocol.restarts=1", "protocol.fgsm_eps=[0.1]"),
}
CELLS = (
    {"name": "dwf"},
    {"name": "rate", "set": ("method.gate_learning_rate=0.2",)},
    {"name": "radii", "set": ("method.fgsm_eps=[0.2]",)},
)
"""The second shares all experts with the first, the third all but one."""


def ablation(**changes: Any) -> Sweep:
    """Three variants of DWF."""
    usual = {"preset": "dwf-digits", "set": COMMON, "cells": CELLS, "protocols": (JUDGING,), "samples": 20}
    return Sweep.read({**usual, **changes})


def reused(folder: Path) -> dict[str, str]:
    """Phase -> whose it was first, from a cell's journal."""
    records = journal.read(folder / "train.jsonl")
    return {record["phase"]: record["reused_from"] for record in records if "reused_from" in record}


def made(folder: Path) -> dict[str, Any]:
    """Weights of the whole and of every phase, and the verdicts without their times."""
    weights = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("model.safetensors")}
    verdicts = {file.name: untimed(json.loads(file.read_text())) for file in (folder / "eval").glob("*.json")}
    return {**weights, **verdicts}


def untimed(value: Any) -> Any:
    """A JSON value without what the clock put there."""
    if isinstance(value, dict):
        return {key: untimed(inner) for key, inner in value.items() if key not in ("seconds", "started")}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value
