"""What `dwf evaluate` adds to a protocol: the headline, --strict, --surrogate, RobustBench's files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_words import Dwf

from dwf.core.result import FlagEntry
from dwf.evaluation import flags

QUICK = [
    word for text in ("steps=2", "apgd_steps=3", "targets=1", "queries=5", "restarts=2") for word in ("--set", f"protocol.{text}")
]


def test_the_last_line_is_the_headline(dwf: Dwf, run_folder: Path) -> None:
    code, out, _ = dwf("evaluate", run_folder, "--protocol", "masking", "--samples", 20, "--quiet", *QUICK)
    assert code == 0
    last = " ".join(out.splitlines()[-2:])
    assert "Worst case over" in last
    assert "Linf 8/255" in last
    assert "n = 20 of digits test (subset of 20 of" in last


def test_strict_ends_with_3_where_a_number_cannot_be_trusted(
    dwf: Dwf, run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    doubt = FlagEntry(code="zero_gradient", class_="trust", value=1.0, cause="Flat.", remedy="Look.")
    monkeypatch.setattr(flags, "zero_gradient", lambda asked: doubt)
    words = ("--protocol", "masking", "--samples", 20, "--quiet", *QUICK)
    for folder in ("lenient", "strict"):
        shutil.copytree(run_folder, tmp_path / folder)
    code, out, _ = dwf("evaluate", "lenient", *words)
    assert code == 0
    assert "trust flag zero_gradient: Flat. Look." in out
    assert dwf("evaluate", "strict", *words, "--strict").code == 3
    assert (tmp_path / "strict" / "eval").is_dir(), "the result is kept all the same"


def test_images_of_another_run_are_tried(dwf: Dwf, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "other")
    words = ("--protocol", "transfer", "--samples", 20, "--quiet", "--set", "protocol.steps=2", "--set", "protocol.queries=5")
    code, _, _ = dwf("evaluate", run_folder, *words, "--surrogate", "other")
    assert code == 0
    (file,) = list((run_folder / "eval").glob("transfer*.json"))
    rows = {row["name"]: row["kind"] for row in json.loads(file.read_text())["attacks"]}
    assert rows == {"transfer-tiny": "transfer", "square": "black"}


def test_robustbench_gets_its_exact_keys(dwf: Dwf, run_folder: Path) -> None:
    pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
    code, out, _ = dwf("evaluate", run_folder, "--protocol", "autoattack", "--quiet", "--set", "protocol.eps=128/255")
    assert code == 0
    info = json.loads((run_folder / "robustbench" / "linf-128_255.json").read_text())
    assert list(info) == [
        *("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps"),
        *("clean_acc", "reported", "autoattack_acc", "unreliable"),
    ]
    assert info["eps"] == "128/255"
    assert info["autoattack_acc"] == info["reported"]
    assert float(info["autoattack_acc"]) <= float(info["clean_acc"])
    assert "number_forward_passes" in info
    issue = (run_folder / "robustbench" / "linf-128_255.md").read_text()
    assert f"- Robust accuracy: {info['autoattack_acc']}" in issue
    assert "For RobustBench" in out


def test_a_surrogate_of_other_images_is_refused(dwf: Dwf, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "other")
    record = json.loads((tmp_path / "other" / "run.json").read_text())
    record["spec"]["classes"] = [*record["spec"]["classes"][:-1], "ten"]
    (tmp_path / "other" / "run.json").write_text(json.dumps(record))
    code, _, err = dwf("evaluate", run_folder, "--protocol", "transfer", "--samples", 20, "--surrogate", "other")
    assert code == 2
    assert (
        "surrogate other takes images (1, 8, 8) of 10 classes, 'ten' among them, and digits has images (1, 8, 8) of 10 classes, "
        "'9' among them; name a run on the same data"
    ) in err
