"""Nine cells, killed at random and resumed, in processes and under Ray: the same results."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from dwf_processes import PRESET, finish, killed, leftovers, records, start, until, untimed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
SWEEP = """
preset = "seconds.toml"
samples = 20
protocols = [{ name = "table3", set = ["protocol.steps=[1]", "protocol.final=2", "protocol.restarts=1"] }]
[grid]
seed = [0, 1, 2]
[[cells]]
name = "dwf"
[[cells]]
name = "warm"
set = ["method.gate_warmup=1"]
[[cells]]
name = "radii"
set = ["method.fgsm_eps=[0.2]"]
"""


def words(out: Path, *more: str) -> list[str | Path]:
    """The same file for everybody; it names its preset by a path."""
    out.parent.mkdir(parents=True, exist_ok=True)
    (out.parent / "seconds.toml").write_text(PRESET)
    file = out.parent / "nine.toml"
    file.write_text(SWEEP.replace("seconds.toml", str(out.parent / "seconds.toml")))
    return ["sweep", file, "--out", out, "--device", "cpu", *more]


def whole_sweep(command: list[str | Path]) -> None:
    """From where it stands to its end."""
    code, said, err = finish(start(command), 3000)
    assert code == 0, err
    assert "9 of 9 cells finished" in said


def results(out: Path) -> dict[str, Any]:
    """What every cell made."""
    cells = [folder for folder in out.iterdir() if (folder / "run.json").exists()]
    verdicts = {f"{cell.name}/{f.name}": untimed(json.loads(f.read_text())) for cell in cells for f in cell.glob("eval/*.json")}
    weights = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("model.safetensors")}
    assert len(cells) == len(verdicts) == 9
    return {**verdicts, **weights}


class Undisturbed(NamedTuple):
    """A sweep in one process that nobody killed."""

    out: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Nine cells."""
    out, began = tmp_path_factory.mktemp("undisturbed") / "out", time.monotonic()
    whole_sweep(words(out))
    return Undisturbed(out, time.monotonic() - began)


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_nine_cells_killed_at_random_end_as_if_nothing_had_happened(
    executor: str, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    out, random, hits = tmp_path / "out", Random(executor), 0
    for _ in range(6):
        after = undisturbed.seconds * random.uniform(0, 0.3) if hits else 0
        hits += killed(words(out, "--executor", executor, "--resume"), out, "*/train.jsonl", after)
    assert hits >= 1
    whole_sweep(words(out, "--executor", executor, "--resume"))
    assert results(out) == results(undisturbed.out)
    assert leftovers(out) == []
    for cell in out.glob("*/run.json"):
        ours, theirs = ([{k: v for k, v in r.items() if k != "reused_from"} for r in records(place / cell.parent.name)]
                        for place in (out, undisturbed.out))  # fmt: skip
        assert ours == theirs, "whoever learnt a phase first"


def test_ray_makes_the_same(undisturbed: Undisturbed, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    whole_sweep(words(tmp_path / "out", "--executor", "ray", "--workers", "2"))
    assert results(tmp_path / "out") == results(undisturbed.out)


def test_a_second_sweep_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "busy"
    first = start(words(folder))
    try:
        until((folder / "sweep.json").exists, first)
        code, _, err = finish(start(words(folder, "--resume")))
        assert (code, err) == (
            2,
            f"dwf: another process is writing to {folder}; wait for it or choose another folder with --out\n",
        )
    finally:
        first.kill()
        first.communicate()
