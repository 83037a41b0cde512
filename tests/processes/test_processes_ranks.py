"""torchrun with two gloo processes: one run, one journal, and the same step as one process."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from dwf_processes import done, finish, leftovers, preset, records, start, untimed, whole
from safetensors.torch import load_file
from torch import Tensor

from dwf.methods import METHODS

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
SHORT = ["--set", "method.experts.epochs=1", "--set", "method.joint.epochs=1"]
STEP, REFUSING, EVERY = (str(Path(__file__).with_name(name)) for name in ("one_step.py", "refusing.py", "every_method.py"))


def test_two_ranks_train_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    averaged = [*SHORT, "--set", "train.average=0.9"]
    out = done(["train", preset(tmp_path), "--device", "cpu", "--out", folder, *averaged], launcher=(*TORCHRUN, "-m", "dwf"))
    assert out.count("Trained:") == 1, "rank 0 speaks alone"
    assert json.loads((folder / "run.json").read_text())["ranks"] == 2
    found = [(record["event"], record.get("phase"), record.get("round")) for record in records(folder)]
    phases = ["benign-1", "fgsm-1", "pgd-1", "joint"]
    expected = [line for name in phases for line in [("phase", name, None), ("round", name, 0)]]
    assert found == [*expected, ("done", None, None)]
    assert {record["images"] for record in records(folder) if record["event"] == "round"} == {250}
    assert leftovers(folder) == []
    whole(folder)
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("who", [0, 1])
def test_what_one_rank_refuses_the_other_refuses_too(who: int, tmp_path: Path) -> None:
    done([who, tmp_path], launcher=(*TORCHRUN, REFUSING))
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == [f"rank {who} says no"] * 2


def test_a_refusal_under_torchrun_has_one_traceback_torchruns_own(tmp_path: Path) -> None:
    """Rank 0 alone looks at the folder; the other waits for it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    process = start(["train", preset(tmp_path), "--device", "cpu", "--out", tmp_path / "run"], launcher=(*TORCHRUN, "-m", "dwf"))
    code, _, errors = finish(process)
    assert code != 0
    assert f"dwf: {tmp_path / 'run'}" in errors, errors
    assert errors.count("Traceback (most") == 1, errors


@pytest.mark.slow
def test_two_ranks_keep_one_cap(tmp_path: Path) -> None:
    words = ["train", preset(tmp_path), "--device", "cpu", *SHORT]
    done([*words, "--out", tmp_path / "run", "--memory", "8GiB"], launcher=(*TORCHRUN, "-m", "dwf"))
    assert json.loads((tmp_path / "run/run.json").read_text())["memory"].keys() == {"benign-1", "fgsm-1", "pgd-1", "joint"}
    whole(tmp_path / "run")
    process = start([*words, "--out", tmp_path / "small", "--memory", "64MiB"], launcher=(*TORCHRUN, "-m", "dwf"))
    code, _, errors = finish(process)
    assert code != 0
    assert "'train.memory' is 64 MiB" in errors, "nobody waits for ever"


def by_one_and_by_two(script: str, folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the script writes alone and on two ranks, which must be the same up to rounding in double precision."""
    done([folder / "one.safetensors"], launcher=[script])
    done([folder / "two.safetensors"], launcher=(*TORCHRUN, script))
    one, two = load_file(folder / "one.safetensors"), load_file(folder / "two.safetensors")
    assert (int(one.pop("ranks")), int(two.pop("ranks"))) == (1, 2)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=0, atol=1e-12), name
    return one, two


def test_one_step_of_two_ranks_equals_one_step_of_one(tmp_path: Path) -> None:
    one, two = by_one_and_by_two(STEP, tmp_path)
    assert {name.split(".")[0] for name in one} == {"plain", "dwf"}
    assert {name.split(".")[1] for name in one} >= {"average", "apart", "scores"}
    assert {two[f"{kind}.scores.n"].item() for kind in ("plain", "dwf")} == {16}
    for kind in ("plain", "dwf"):
        assert two[f"{kind}.apart"] < 1e-15, "both ranks keep the same average"


@pytest.mark.slow
def test_two_machines_train_one_run(tmp_path: Path) -> None:
    """As docs/scale.md says: torchrun on each of them, meeting at one; here both are this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "ours")
    launcher = ("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting, "-m", "dwf")
    words = ["train", preset(tmp_path), "--device", "cpu", "--out", tmp_path / "run", *SHORT]
    machines = [start(words, launcher=launcher) for _ in range(2)]
    ends = [finish(machine) for machine in machines]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert sum(out.count("Trained:") for _, out, _ in ends) == 1, "rank 0 speaks alone"
    assert json.loads((tmp_path / "run/run.json").read_text())["ranks"] == 2
    whole(tmp_path / "run")


def test_every_method_learns_on_two_ranks_what_it_learns_on_one(tmp_path: Path) -> None:
    """Two updates, attacks and choices of experts with them: each image's noise is its own, wherever it is attacked."""
    one, _ = by_one_and_by_two(EVERY, tmp_path)
    assert {name.split("/")[0] for name in one} == set(METHODS)
    for phase in {tuple(name.split("/")[:2]) for name in one}:
        assert max(tensor.double().abs().max() for name, tensor in one.items() if tuple(name.split("/")[:2]) == phase) > 1e-4, phase


def test_two_ranks_evaluate_like_one(tmp_path: Path) -> None:
    """Whole batches are dealt out; the file is the same but for its times."""
    folder, name = tmp_path / "run", "full-steps2-apgd_steps3-targets1-queries10"
    done(["train", preset(tmp_path), "--device", "cpu", "--out", folder, *SHORT])
    few = ("steps=2", "apgd_steps=3", "targets=1", "queries=10")
    settings = [word for text in few for word in ("--set", f"protocol.{text}")]
    evaluation = ["evaluate", folder, "--protocol", "full", "--samples", "30", "--batch", "8", "--device", "cpu", *settings]
    done(evaluation)
    alone = {file.name: file.read_bytes() for file in (folder / "eval").iterdir()}
    assert set(alone) == {f"{name}.json", f"{name}.npz", f"{name}.images.npz"}
    for file in (folder / "eval").iterdir():
        file.unlink()
    out = done(evaluation, launcher=(*TORCHRUN, "-m", "dwf"))
    assert out.count("Worst case over") == 1, "rank 0 speaks alone"
    for file in (f"{name}.npz", f"{name}.images.npz"):
        assert (folder / "eval" / file).read_bytes() == alone[file]
    shared = json.loads((folder / "eval" / f"{name}.json").read_text())
    assert untimed(shared) == untimed(json.loads(alone[f"{name}.json"]))
    assert leftovers(folder) == []
