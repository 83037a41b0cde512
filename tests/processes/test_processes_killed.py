"""kill -9 at any moment, then --resume: the result is that of a run which nobody disturbed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from dwf_processes import done, finish, leftovers, preset, records, start, untimed, whole

EVALUATION = ["--protocol", "table3", "--samples", "120", "--batch", "10", "--device", "cpu", "--precision", "fp32", "--resume"]
EVALUATION += ["--set", "protocol.steps=[5,20]", "--set", "protocol.final=120"]
NAME = "table3-steps5_20-final120"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nobody disturbed, and how long it took."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    done(["train", preset(folder), "--device", "cpu", "--out", folder / "run"])
    return folder / "run", time.monotonic() - began


@pytest.fixture(scope="module")
def evaluated(trained: tuple[Path, float]) -> tuple[Path, float]:
    """Its evaluation, and how long that took."""
    began = time.monotonic()
    done(["evaluate", trained[0], *EVALUATION])
    return trained[0] / "eval", time.monotonic() - began


def kill_and_go_on(words: Sequence[str | Path], folder: Path, kills: int, seconds: float, seed: int) -> int:
    """Kill -9 at random moments of the job, looking at the folder each time, then let it end; how many kills hit it alive."""
    random, hits = Random(seed), 0
    for _ in range(kills):
        process = start(words)
        time.sleep(random.uniform(0.3, 1.0) * seconds)
        process.kill()
        code, _, err = finish(process)
        assert code in (0, -9), err
        hits += code == -9
        whole(folder)
        if code == 0:
            break
    done(words)
    return hits


@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_training_ends_as_if_nothing_had_happened(kills: int, trained: tuple[Path, float], tmp_path: Path) -> None:
    undisturbed, seconds = trained
    folder = tmp_path / "run"
    words = ["train", preset(tmp_path), "--device", "cpu", "--out", folder, "--resume"]
    # The later ones meet less work, so that a job of this length is hit in each of its phases.
    assert kill_and_go_on(words, folder, kills, seconds * (0.9 if kills == 6 else 0.7), seed=kills) >= 2
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert records(folder) == records(undisturbed)
    assert leftovers(folder) == []
    whole(folder)
    for phase in (undisturbed / "phases").iterdir():
        assert (folder / "phases" / phase.name / "model.safetensors").read_bytes() == (phase / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_evaluation_ends_as_if_nothing_had_happened(
    kills: int, trained: tuple[Path, float], evaluated: tuple[Path, float], tmp_path: Path
) -> None:
    undisturbed, seconds = evaluated
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("run.json", "model.safetensors"):
        (folder / name).write_bytes((trained[0] / name).read_bytes())
    assert kill_and_go_on(["evaluate", folder, *EVALUATION], folder, kills, seconds * 0.8, seed=kills) >= 2
    written = sorted(path.name for path in (folder / "eval").iterdir())
    assert written == sorted(path.name for path in undisturbed.iterdir()) == [f"{NAME}.images.npz", f"{NAME}.json", f"{NAME}.npz"]
    for name in (f"{NAME}.npz", f"{NAME}.images.npz"):
        assert (folder / "eval" / name).read_bytes() == (undisturbed / name).read_bytes()
    ours, theirs = (json.loads((place / f"{NAME}.json").read_text()) for place in (folder / "eval", undisturbed))
    assert untimed(ours) == untimed(theirs)
    assert leftovers(folder) == []
