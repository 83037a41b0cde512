"""Phases in processes of their own: the same run, killed or not, wherever it goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from dwf_processes import done, finish, leftovers, preset, records, start, until, whole

APART = ["--executor", "processes", "--workers", "2"]
SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process."""
    folder = tmp_path_factory.mktemp("ordinary")
    done(["train", preset(folder), "--device", "cpu", "--out", folder / "run"])
    return folder / "run"


def words(folder: Path, more: Sequence[str] = ()) -> list[str | Path]:
    return ["train", preset(folder), "--device", "cpu", "--out", folder / "run", "--resume", *more]


def same(folder: Path, ordinary: Path) -> None:
    """All that a run leaves behind, its times excepted."""
    ours = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert ours == {str(file.relative_to(ordinary)) for file in ordinary.rglob("*") if file.is_file()}
    for name in ours:
        if name.endswith((".safetensors", "decided.json")):
            assert (folder / name).read_bytes() == (ordinary / name).read_bytes(), name
    assert records(folder) == records(ordinary)
    for phase in (ordinary / "phases").iterdir():
        assert records(folder / "phases" / phase.name) == records(phase)
    assert leftovers(folder) == []
    whole(folder)


@pytest.mark.parametrize("kills", [0, 2, pytest.param(12, marks=SLOW)])
def test_phases_apart_make_the_run_that_one_process_makes(kills: int, ordinary: Path, tmp_path: Path) -> None:
    random = Random(kills)
    for _ in range(kills):
        process = start(words(tmp_path, APART))
        while process.poll() is None and not (tmp_path / "run" / "aside").exists():
            time.sleep(0.05)
        time.sleep(random.uniform(0, 6))
        process.kill()
        assert finish(process)[0] in (0, -9)
        whole(tmp_path / "run")
    out = done(words(tmp_path, APART))
    assert kills or "pgd-1 (apart)" in out
    same(tmp_path / "run", ordinary)


@pytest.mark.parametrize("before", [[], APART], ids=["ordinary", "apart"])
def test_a_run_goes_on_the_other_way(before: Sequence[str], ordinary: Path, tmp_path: Path) -> None:
    """What was begun apart goes on here, and what was begun here stays here."""
    process = start(words(tmp_path, before))
    sign = "aside/*/state/0*" if before else "state/0*"
    until(lambda: any((tmp_path / "run").glob(sign)), process)
    process.kill()
    finish(process)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    done(words(tmp_path, [] if before else APART))
    same(tmp_path / "run", ordinary)
