"""kill -9 at any moment, then --resume: the result is that of a run which nobody disturbed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from dwf_processes import done, finish, killed, leftovers, preset, records, start, until, untimed, whole

EVALUATION = ["--protocol", "full", "--samples", "40", "--batch", "8", "--device", "cpu", "--precision", "fp32", "--resume"]
FEW = ("steps=3", "apgd_steps=6", "targets=2", "queries=20")
EVALUATION += [word for text in FEW for word in ("--set", f"protocol.{text}")]
SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]
NAME = "full-steps3-apgd_steps6-targets2-queries20"


class Undisturbed(NamedTuple):
    """A job that nobody killed."""

    folder: Path
    working: float
    """Seconds from the moment when it set to work."""


def undisturbed(words: Sequence[str | Path], folder: Path, sign: str) -> Undisturbed:
    """Run to the end, noting when the first file like `sign` appears."""
    process = start(words)
    until(lambda: any(folder.glob(sign)), process)
    working = time.monotonic()
    code, _, err = finish(process)
    assert code == 0, err
    return Undisturbed(folder, time.monotonic() - working)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A training."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return undisturbed(["train", preset(folder), "--device", "cpu", "--out", folder / "run"], folder / "run", "train.jsonl")


@pytest.fixture(scope="module")
def evaluated(trained: Undisturbed) -> Undisturbed:
    """Its evaluation."""
    return undisturbed(["evaluate", trained.folder, *EVALUATION], trained.folder / "eval", ".*.parts")


def kill_and_go_on(words: Sequence[str | Path], folder: Path, sign: str, kills: int, working: float) -> None:
    """Kill -9 as soon as the job works, then at random moments of its work; then let it end."""
    random, hits = Random(kills), 0
    for _ in range(kills):
        hits += killed(words, folder, sign, working * random.uniform(0, 2 / kills) if hits else 0)
    assert hits >= 1
    done(words)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=SLOW)])
def test_a_killed_training_ends_as_if_nothing_had_happened(kills: int, trained: Undisturbed, tmp_path: Path) -> None:
    undisturbed, folder = trained.folder, tmp_path / "run"
    words = ["train", preset(tmp_path), "--device", "cpu", "--out", folder, "--resume"]
    kill_and_go_on(words, folder, "train.jsonl", kills, trained.working)
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert records(folder) == records(undisturbed)
    assert leftovers(folder) == []
    whole(folder)
    for phase in (undisturbed / "phases").iterdir():
        assert (folder / "phases" / phase.name / "model.safetensors").read_bytes() == (phase / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=SLOW)])
def test_a_killed_evaluation_ends_as_if_nothing_had_happened(
    kills: int, trained: Undisturbed, evaluated: Undisturbed, tmp_path: Path
) -> None:
    undisturbed, folder = evaluated.folder, tmp_path / "run"
    folder.mkdir()
    for name in ("run.json", "model.safetensors"):
        (folder / name).write_bytes((trained.folder / name).read_bytes())
    kill_and_go_on(["evaluate", folder, *EVALUATION], folder, "eval/.*.parts", kills, evaluated.working)
    written = sorted(path.name for path in (folder / "eval").iterdir())
    assert written == sorted(path.name for path in undisturbed.iterdir()) == [f"{NAME}.images.npz", f"{NAME}.json", f"{NAME}.npz"]
    for name in (f"{NAME}.npz", f"{NAME}.images.npz"):
        assert (folder / "eval" / name).read_bytes() == (undisturbed / name).read_bytes()
    ours, theirs = (json.loads((place / f"{NAME}.json").read_text()) for place in (folder / "eval", undisturbed))
    assert untimed(ours) == untimed(theirs)
    assert leftovers(folder) == []
