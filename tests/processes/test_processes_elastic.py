"""A worker dies: torchrun starts all of them again, and the run goes on from its last checkpoint to the same weights."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from dwf_processes import done, finish, preset, records, start, until, whole
from safetensors.torch import load_file

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max-restarts", "2", "-m", "dwf")


def workers(launcher: int) -> list[int]:
    """The processes that train, in the order in which they were started."""
    found = [child for child in psutil.Process(launcher).children(recursive=True) if "train" in child.cmdline()]
    return [child.pid for child in sorted(found, key=lambda child: child.create_time())]


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_lost_worker_costs_the_round_that_it_died_in(which: int, tmp_path: Path) -> None:
    words = ["train", preset(tmp_path), "--device", "cpu", "--out"]
    done([*words, tmp_path / "whole"], launcher=TORCHRUN)
    folder = tmp_path / "run"
    process = start([*words, folder], launcher=TORCHRUN)
    until(lambda: (folder / "train.jsonl").exists() and (folder / "train.jsonl").read_text().count('"round"') >= 3, process)
    os.kill(workers(process.pid)[which], signal.SIGKILL)
    code, _, errors = finish(process)
    assert code == 0, errors
    whole(folder)
    rounds = [(r["phase"], r["round"], r["images"], r["validation"]) for r in records(folder) if r["event"] == "round"]
    assert rounds == [(r["phase"], r["round"], r["images"], r["validation"]) for r in records(tmp_path / "whole")
                      if r["event"] == "round"]  # fmt: skip
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    assert all(tensor.equal(expected[name]) for name, tensor in load_file(folder / "model.safetensors").items())
