"""`dwf evaluate --model`: a stranger's package, evaluated by name or in hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_words import SMALL, SMALL_NAME, Dwf
from foreign_package import WORDS
from safetensors.torch import save_file
from torch import nn

from dwf import evaluate_module, write_report
from dwf.core.result import from_json
from dwf.core.types import Spec
from dwf.models import ExpertBank, Gate, Mixture, ResNet


@pytest.fixture
def theirs(package: Path, dwf: Dwf) -> Callable[[], nn.Module]:
    """Their factory, imported."""
    sys.path.insert(0, str(package))
    import theirs.nets

    return theirs.nets.make


def test_a_strangers_package_end_to_end(package: Path) -> None:
    """In a process of its own, as a user would; nothing of ours is in their code."""
    torch.manual_seed(5)
    weights = {"conv.weight": torch.randn(8, 1, 3, 3), "head.weight": torch.randn(10, 392), "head.bias": torch.randn(10)}
    weights |= {f"norm.{name}": torch.rand(8) + 0.5 for name in ("weight", "bias", "running_mean", "running_var")}
    save_file({**weights, "norm.num_batches_tracked": torch.tensor(7)}, package / "w.safetensors")

    words = ["evaluate", "--model", "theirs.nets:make", "--weights", "w.safetensors", "--mean", ".3", "--std", ".4", *WORDS]
    program = [sys.executable, "-c", "import sys; sys.path.remove(''); from dwf.cli import main; main()", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "140"}
    said = subprocess.run(program, capture_output=True, text=True, check=False, env=environment, cwd=package)
    assert said.returncode == 0, said.stderr
    assert "theirs.nets.make" in said.stdout
    assert "probabilities" not in said.stdout
    folder = package / "runs" / "theirs.nets.make"
    file = folder / "eval" / f"{SMALL_NAME}.json"
    result = from_json(json.loads(file.read_text()), where=file)
    assert (result.run, result.model.method, result.model.parameters) == ("theirs.nets.make", "foreign", 72 + 16 + 3930)
    assert result.dataset.name == "digits"
    assert (result.dataset.split, result.dataset.n) == ("test", 40)
    about = {key: result.model.settings[key] for key in ("model", "weights", "mean", "std", "outputs")}
    assert about == {"model": "theirs.nets:make", "weights": "w.safetensors", "mean": [0.3], "std": [0.4], "outputs": "logits"}
    record = json.loads((folder / "run.json").read_text())
    assert record["spec"]["classes"] == list("0123456789")
    assert (record["name"], record["data"]["sha256"]) == ("theirs.nets.make", result.dataset.sha256)

    pages = write_report([folder], folder / "report.html")
    assert all(word in pages[0].read_text() for word in ("theirs.nets.make", "foreign"))


def test_three_lines_of_python_for_a_module_in_hand(theirs: Callable[[], nn.Module]) -> None:
    net = theirs().train()
    result = evaluate_module(net, data="digits", name="mine", mean=[0.3], std=[0.4], overrides=SMALL, samples=40, device="cpu")
    assert result.clean.n == 40
    assert Path("runs/mine/eval", f"{SMALL_NAME}.json").is_file()
    assert result.model.settings["model"] == "theirs.nets.Net"
    assert net.training


def test_a_mixture_in_hand_is_attacked_as_one(package: Path) -> None:
    spec = Spec(classes=tuple("0123456789"), channels=1, height=16, width=16, mean=(0.3,), std=(0.4,))
    module = Mixture(ExpertBank([ResNet(depth=10, width=2)(spec) for _ in range(2)]), Gate(hidden=8)(spec, 2))
    result = evaluate_module(module, data="digits", overrides=SMALL, samples=20, device="cpu")
    assert (result.run, result.model.forward_passes) == ("Mixture", 2)
    assert result.routing is not None
    assert len(result.routing["clean"].weights) == 2


def test_the_same_numbers_by_name_and_in_hand(dwf: Dwf, theirs: Callable[[], nn.Module]) -> None:
    assert dwf("evaluate", "--model", "theirs.nets:make", "--out", "named", *WORDS, "--quiet").code == 0
    assert dwf("evaluate", "--model", "theirs.nets:ready", "--out", "ready", *WORDS, "--quiet").code == 0
    held = evaluate_module(theirs(), data="digits", name="held", overrides=SMALL, samples=40, batch=25, device="cpu")
    for folder in ("named", "ready"):
        file = Path(folder, "eval", f"{SMALL_NAME}.json")
        named = from_json(json.loads(file.read_text()), where=file)
        assert [(row.name, row.accuracy) for row in named.attacks] == [(row.name, row.accuracy) for row in held.attacks]
        assert named.clean == held.clean


def test_a_module_that_returns_probabilities_is_noticed_and_attacked_as_hard(dwf: Dwf, package: Path) -> None:
    rows = []
    for name in ("make", "soft"):
        code, out, err = dwf("evaluate", "--model", f"theirs.nets:{name}", *WORDS, "--precision", "fp32")
        assert code == 0, err
        file = Path("runs", f"theirs.nets.{name}", "eval", f"{SMALL_NAME}.json")
        result = from_json(json.loads(file.read_text()), where=file)
        rows.append([row.accuracy for row in result.attacks])
    assert "theirs.nets.soft returns probabilities and was attacked through their logarithm: " in out.replace("\n", " ")
    assert result.model.settings["outputs"] == "probabilities"
    assert rows[1] == pytest.approx(rows[0], abs=0.051)  # two samples of rounding
