"""Nine cells, killed at random and resumed, in processes and under Ray: the same results."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from dwf_processes import PRESET, done, finish, leftovers, records, start, untimed, whole

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


def results(out: Path) -> dict[str, Any]:
    """What every cell made."""
    cells = [folder for folder in out.iterdir() if (folder / "run.json").exists()]
    verdicts = {f"{cell.name}/{f.name}": untimed(json.loads(f.read_text())) for cell in cells for f in cell.glob("eval/*.json")}
    weights = {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("model.safetensors")}
    assert len(cells) == len(verdicts) == 9
    return {**verdicts, **weights}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In one process, by nobody killed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert "9 of 9 cells finished" in done(words(out))
    return out


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_nine_cells_killed_at_random_end_as_if_nothing_had_happened(executor: str, undisturbed: Path, tmp_path: Path) -> None:
    out, random, hits = tmp_path / "out", Random(executor), 0
    for _ in range(8):
        process = start(words(out, "--executor", executor, "--resume"))
        time.sleep(random.uniform(5, 40))
        process.kill()
        code, _, err = finish(process)
        assert code in (0, -9), err
        hits += code == -9
        if out.exists():
            whole(out)
    assert hits >= 3
    assert "9 of 9 cells finished" in done(words(out, "--executor", executor, "--resume"))
    assert results(out) == results(undisturbed)
    assert leftovers(out) == []
    for cell in out.glob("*/run.json"):
        ours, theirs = ([{k: v for k, v in r.items() if k != "reused_from"} for r in records(place / cell.parent.name)]
                        for place in (out, undisturbed))  # fmt: skip
        assert ours == theirs, "whoever learnt a phase first"


def test_ray_makes_the_same(undisturbed: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    assert "9 of 9 cells finished" in done(words(tmp_path / "out", "--executor", "ray", "--workers", "2"))
    assert results(tmp_path / "out") == results(undisturbed)


def test_a_second_sweep_in_the_same_folder_is_refused(undisturbed: Path) -> None:
    """While the first one runs; afterwards it has a successor that finds nothing left to do."""
    folder = undisturbed.parent / "busy"
    first = start(words(folder))
    try:
        deadline = time.monotonic() + 120
        while not (folder / "sweep.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        code, _, err = finish(start(words(folder, "--resume")))
        assert (code, err) == (
            2,
            f"dwf: another process is writing to {folder}; wait for it or choose another folder with --out\n",
        )
    finally:
        first.kill()
        first.communicate()
