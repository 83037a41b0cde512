"""`dwf compare` on runs that were really trained and attacked."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_words import SMALL, SMALL_NAME, Dwf
from rich.console import Console
from safetensors.torch import load_file, save_file

from dwf import evaluate
from dwf.cli import report

EVALUATE = [word for text in SMALL for word in ("--set", text)]
ROWS = ("clean", "fgsm-0.01", "fgsm-0.03", "fgsm", "pgd-1", "pgd-2-worst", "pgd-3x2", "pgd-3-eot1", "worst Linf 8/255")
VERDICTS = {"better", "worse", "even"}


def sibling(run: Path, name: str, epochs: int) -> Path:
    """A run of another preset: other settings, other weights."""
    folder = shutil.copytree(run, run.with_name(name))
    record = json.loads((folder / "run.json").read_text())
    record["name"] = record["settings"]["name"] = name
    record["settings"]["method"]["recipe"]["epochs"] = epochs
    (folder / "run.json").write_text(json.dumps(record))
    weights = load_file(folder / "model.safetensors")
    noise = torch.Generator().manual_seed(epochs)
    for key, value in weights.items():
        if key.endswith("weight") and value.ndim > 1:
            weights[key] = value + 0.3 * value.std() * torch.randn(value.shape, generator=noise)
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def _evaluated(_trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("evaluated")
    one = shutil.copytree(_trained, place / "tiny")
    for run in (one, sibling(one, "other", 3), sibling(one, "third", 4)):
        evaluate(run, "table3", overrides=SMALL, samples=60, device="cpu")
    return place


@pytest.fixture
def evaluated(_evaluated: Path, tmp_path: Path) -> list[Path]:
    """Three runs judged alike, the first of them the baseline."""
    place = shutil.copytree(_evaluated, tmp_path / "runs")
    return [place / name for name in ("tiny", "other", "third")]


def test_every_run_stands_against_the_first(dwf: Dwf, evaluated: list[Path], tmp_path: Path) -> None:
    code, out, err = dwf("compare", *evaluated, "--csv", "c.csv", "--json", tmp_path / "deep" / "c.json")
    assert (code, err) == (0, "")
    assert f"{SMALL_NAME} on digits, test split, 60 images" in " ".join(out.split())
    for name in ("other", "third"):
        assert f"A  tiny\nB  {name}\n" in out
    lines = out.splitlines()
    for row in ROWS:
        found = [line.split()[-1] for line in lines if line.startswith(f"{row} ")]
        assert len(found) == 2
        assert set(found) <= VERDICTS
    last = out.rstrip().rpartition("\n\n")[2].replace("\n", " ")
    assert last.startswith("Worst case at Linf 8/255, 60 images, against tiny with ")
    assert "; third has " in last
    assert last.endswith(".")

    data = json.loads((tmp_path / "deep" / "c.json").read_text())
    stored = json.loads((evaluated[1] / "eval" / f"{SMALL_NAME}.json").read_text())
    rows = {row["row"]: row for row in data["duels"][0]["rows"]}
    assert set(rows) >= set(ROWS)
    assert rows["worst Linf 8/255"]["accuracy_b"] == stored["worst_case"][0]["accuracy"]
    assert data["tests"] == 2 * len(rows)
    with Path("c.csv").open(newline="") as file:
        assert [row["row"] for row in csv.DictReader(file)] == 2 * list(rows)


def test_no_row_is_broken_on_80_columns(
    dwf: Dwf, evaluated: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "console", Console(width=80))
    code, out, _ = dwf("compare", *evaluated[:2])
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    table = out[out.index("Row ") : out.index("A row called worst")].splitlines()
    data = [line for line in table[1:] if line.strip()]
    assert {line.split()[-1] for line in data} <= VERDICTS
    assert all(line.count(" to ") == 1 for line in data)


def test_the_report_compares_too(dwf: Dwf, evaluated: list[Path]) -> None:
    assert dwf("report", *evaluated, "--out", "report.html").code == 0
    text = Path("report.html").read_text()
    assert ">Comparison</h2>" in text
    assert "against tiny with " in text


def test_bad_words_for_a_comparison(refused: Callable[..., str], evaluated: list[Path]) -> None:
    one, other, _ = evaluated
    assert refused("compare", one) == "a comparison takes at least two runs and got tiny alone; name a baseline, then its rivals"
    assert refused("compare", one, "nowhere").startswith("run folder nowhere does not exist")
    assert refused("compare", one, other, "--protocol", "table4") == (f"run {one} has no evaluation 'table4'; Valid: {SMALL_NAME}")
    Path("file").write_text("")
    assert "cannot be written" in refused("compare", one, other, "--csv", "file/c.csv")
    assert "cannot be written" in refused("compare", one, other, "--json", "file/c.json")


def test_other_samples_are_refused_with_the_command_that_helps(dwf: Dwf, refused: Callable[..., str], run_folder: Path) -> None:
    other = sibling(run_folder, "other", 3)
    for run, samples in ((run_folder, 30), (other, 20)):
        assert dwf("evaluate", run, *EVALUATE, "--samples", samples, "--device", "cpu", "--quiet").code == 0
    said = refused("compare", run_folder, other)
    assert said.startswith(f"tiny and other cannot be compared on {SMALL_NAME}: they differ in the samples (subset of 30 of ")
    file = other / "eval" / f"{SMALL_NAME}.json"
    assert f"; move {file} away and run: dwf evaluate {other} --protocol table3 " in said
    assert said.endswith("--samples 30")
