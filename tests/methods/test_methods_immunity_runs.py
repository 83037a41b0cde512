"""A run of Immunity under the verbs: random at every pass, and yet the same file twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_methods import run, tiny

from dwf import evaluate
from dwf.core.result import Result
from dwf.run import load, presets, read
from dwf.verbs import train
from dwf.verbs.attack import attack

FEW = {
    "table3": ("steps=[1]", "final=2", "restarts=2", "eot=20"),
    "moe": ("steps=1", "apgd_steps=2", "temperatures=[[1,10]]"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("immunity")
    train(run(tiny("immunity", experts=3)), folder, device="cpu")
    return folder


def judged(folder: Path, protocol: str, seed: int = 0) -> Result:
    few = [f"protocol.{text}" for text in FEW[protocol]]
    return evaluate(folder, protocol, overrides=few, samples=10, batch=5, device="cpu", seed=seed)


def untimed(file: Path) -> Any:
    data = json.loads(file.read_text())
    data["environment"].update(started="", seconds=0)
    for row in data["attacks"]:
        row["seconds"] = 0
    return data


@pytest.mark.parametrize("protocol", FEW)
def test_the_same_seed_writes_the_same_file(trained: Path, tmp_path: Path, protocol: str) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for number, folder in enumerate(folders):
        shutil.copytree(trained, folder)
        torch.manual_seed(number)
        judged(folder, protocol)
    (one,), (two,) = ([*folder.glob("eval/*.json")] for folder in folders)
    assert untimed(one) == untimed(two)
    for suffix in (".npz", ".images.npz"):
        assert one.with_suffix(suffix).read_bytes() == two.with_suffix(suffix).read_bytes()


def test_it_is_taken_apart_and_flagged(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    result = judged(tmp_path / "run", "moe")
    rows = {row.name: row.accuracy for row in result.attacks}
    assert {"pgd", "frozen-routing", "routing", "expert-3", "surrogate", "reweighed", "pgd-eot20"} <= set(rows)
    held = [accuracy for name, accuracy in rows.items() if name.startswith("permutation-")]
    assert len(held) == 6
    assert rows["worst-permutation"] <= min(held)
    assert "randomized" in {flag.code for flag in result.flags}
    assert result.model.forward_passes == 3


def test_the_same_attack_writes_the_same_images(trained: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    for name in ("first", "second"):
        attack(trained, "eot-pgd", out=tmp_path / name, samples=20, batch=10, device="cpu", overrides=["attack.steps=1"])
    assert torch.equal(torch.random.get_rng_state(), state)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert any(file.suffix == ".npz" for file in files)
    for file in files:
        if file.name != "manifest.json":
            assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_the_loaded_model_reads_its_heat_where_it_was_trained(trained: Path) -> None:
    model = load(trained).model
    assert model.blocks == 1
    assert not torch.equal(model(torch.zeros(20, 1, 8, 8)), model(torch.zeros(20, 1, 8, 8)))


@pytest.mark.parametrize("name", [name for name in presets() if name.startswith("immunity-")])
def test_presets_train_against_an_adversary(name: str) -> None:
    """Switching alone is no defence: each permutation by itself would be a plain net."""
    method = read(name).method
    assert method.kind == "immunity"
    assert method.steps >= 5
    assert method.steps * method.step >= method.threat.eps * 1.25


def test_the_mini_preset_trains_no_more_than_mini_dwf() -> None:
    ours, theirs = read("immunity-cifar10-mini").method, read("dwf-cifar10-mini").method
    assert ours.kind == "immunity"
    assert theirs.kind == "dwf"
    passes = ours.experts * ours.recipe.epochs * sum(ours.cost()["train"])
    counts = {"benign": theirs.benign, "fgsm": theirs.fgsm, "pgd": theirs.pgd}
    costs = theirs.cost()
    dwf = theirs.experts.epochs * sum(count * sum(costs[kind]) for kind, count in counts.items())
    dwf += theirs.joint.epochs * sum(counts.values()) * sum(costs["joint"])
    assert ours.backbone == theirs.backbone
    assert passes <= dwf
