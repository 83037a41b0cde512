"""Two processes in one folder, and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
from dwf_processes import finish, leftovers, preset, records, start, until

LONG = ["--set", "method.experts.epochs=4000"]


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Popen[str]]:
    """A long run that has made its first checkpoint."""
    process = start(["train", preset(tmp_path), "--device", "cpu", "--out", tmp_path / "run", *LONG])
    try:
        until(lambda: any((tmp_path / "run" / "state").glob("[0-9]*")), process)
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_run_in_the_same_folder_is_refused(training: Popen[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, _, err = finish(start(["train", preset(tmp_path), "--device", "cpu", "--out", folder, *LONG, "--resume"]))
    assert code == 2
    assert err == f"dwf: another process is writing to {folder}; wait for it or choose another folder with --out\n"
    assert training.poll() is None, "the first one goes on"


def test_ctrl_c_ends_with_the_way_to_go_on(training: Popen[str], tmp_path: Path) -> None:
    training.send_signal(signal.SIGINT)
    code, _, err = finish(training, 60)
    assert code == 130
    assert err.endswith("dwf: interrupted; run the same command again to go on (train, sweep and evaluate: with --resume)\n")
    assert "Traceback" not in err
    folder = tmp_path / "run"
    assert any((folder / "state").glob("[0-9]*"))
    assert leftovers(folder) == []
    assert records(folder)


def test_the_lock_dies_with_its_process(training: Popen[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    training.kill()
    training.communicate()
    code, _, err = finish(start(["train", preset(tmp_path), "--device", "cpu", "--out", folder, "--resume"]))
    assert code == 2
    assert f"dwf: {folder} was started with other settings (method.experts.epochs: 4000 -> 2)" in err
