"""A sweep from beginning to end, in this process: what is shared, what is the same, and what fails alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_sweeps import CELLS, COMMON, JUDGING, ablation, made, reused

from dwf.cells import cells_of
from dwf.core import journal
from dwf.core.errors import Refused
from dwf.core.record import read_record
from dwf.report import read as read_results
from dwf.run import RunFolder
from dwf.verbs import sweep, train
from dwf.verbs.sweep import Swept, _claim
from dwf.verbs.validated import validated

Told = list[tuple[str, Mapping[str, Any]]]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Swept, Told]:
    """The three variants, all that was told about them."""
    out, told = tmp_path_factory.mktemp("sweep") / "out", []
    ended = sweep(ablation(), out, device="cpu", tell=lambda name, record: told.append((name, record)))
    return out, ended, told


def test_every_cell_is_an_ordinary_run_and_the_report_has_them_all(swept: tuple[Path, Swept, Told]) -> None:
    out, ended, told = swept
    assert [path.name for path in ended.finished] == ["dwf", "rate", "radii"]
    assert ended.failed == {}
    for path in ended.finished:
        assert read_record(path)["settings"]["name"] == path.name
        (result,) = read_results(path)
        assert (result.run, result.result.dataset.n) == (path.name, 20)
        assert not (path / "aside").exists()
        assert not (path / "state").exists()
    page = (out / "report.html").read_text()
    assert all(path.name in page for path in ended.finished)
    assert [name for name, record in told if record["event"] == "cell"] == ["dwf", "rate", "radii"]


def test_what_cells_scored_is_the_last_round_of_their_last_phase(swept: tuple[Path, Swept, Told]) -> None:
    out, ended, _ = swept
    stored = json.loads((out / "validation.json").read_text())["cells"]
    assert [line["cell"] for line in stored] == [line.cell for line in ended.validated] == ["dwf", "rate", "radii"]
    for line in stored:
        rounds = [record for record in journal.read(out / line["cell"] / "train.jsonl") if record["event"] == "round"]
        assert rounds[-1]["phase"] == "joint"
        assert {key: line[key] for key in ("sa", "fgsm", "ra", "n")} == rounds[-1]["validation"]
        assert line["seconds"] == pytest.approx(sum(record["seconds"] for record in rounds), abs=1e-3)
        assert line["environment"] == read_record(out / line["cell"])["environment"]


def test_what_was_kept_is_the_best_round_where_a_phase_chooses(swept: tuple[Path, Swept, Told], tmp_path: Path) -> None:
    """Rounds 1 and 3 are each the best so far, of six; a journal that does not say, is damaged or missing, tells nothing."""
    out = shutil.copytree(swept[0] / "dwf", tmp_path / "dwf")
    lines = [{"event": "round", "phase": "p", "round": i, "rounds": 6, "validation": {"sa": 0.0, "fgsm": 0.0, "ra": ra, "n": 1},
              "seconds": 1.0, **({"best": True} if best else {})}
             for i, (ra, best) in enumerate([(0.1, True), (0.0, False), (0.3, True), (0.2, False)])]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (out / "train.jsonl").write_text(text)
    assert [(line.ra, line.round) for line in validated([out])] == [(0.2, 4)]
    (out / "run.json").write_text((out / "run.json").read_text().replace('"select": "last"', '"select": "best_ra"'))
    assert [(line.ra, line.round, line.rounds, line.seconds) for line in validated([out])] == [(0.3, 3, 6, 4.0)]
    for damaged in (text.replace(', "best": true', ""), text + "{\n"):
        (out / "train.jsonl").write_text(damaged)
        assert validated([out]) == []
    (out / "train.jsonl").unlink()
    assert validated([out]) == []


def test_an_experts_scores_are_not_told_as_the_mixtures(swept: tuple[Path, Swept, Told], tmp_path: Path) -> None:
    """Frozen experts under a uniform gate: the last phase is an expert's."""
    out = shutil.copytree(swept[0] / "dwf", tmp_path / "dwf")
    record = read_record(out)
    record["settings"]["method"] |= {"freeze_experts": True, "gate": {**record["settings"]["method"]["gate"], "reads": "nothing"}}
    (out / "run.json").write_text(json.dumps(record))
    rounds = [one for one in journal.read(out / "train.jsonl") if one.get("phase") != "joint"]
    (out / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rounds))
    assert validated([out]) == []


def test_no_expert_is_trained_twice(swept: tuple[Path, Swept, Told]) -> None:
    out, _, told = swept
    taught = [(name, record["phase"]) for name, record in told if record["event"] == "step" or record["event"] == "round"]
    learnt = {(name.partition("/")[0], phase) for name, phase in taught if "/" in name}
    assert learnt == {("dwf", "benign-1"), ("dwf", "fgsm-1"), ("dwf", "pgd-1"), ("radii", "fgsm-1")}
    assert reused(out / "dwf") == {}
    assert reused(out / "rate") == {name: f"dwf/phases/{name}" for name in ("benign-1", "fgsm-1", "pgd-1")}
    assert reused(out / "radii") == {name: f"dwf/phases/{name}" for name in ("benign-1", "pgd-1")}
    records = list(journal.read(out / "rate" / "train.jsonl"))
    assert [r["phase"] for r in records if r["event"] == "phase"] == ["benign-1", "fgsm-1", "pgd-1", "joint"]
    assert [(r["index"], r["phases"]) for r in records if r["event"] == "phase"] == [(n, 4) for n in range(4)]


def test_sharing_changes_nothing(swept: tuple[Path, Swept, Told], tmp_path: Path) -> None:
    """Each cell as its own run, which knows of no other."""
    out, _, _ = swept
    for cell in cells_of(ablation()):
        train(cell.run, tmp_path / cell.name, device="cpu")
        ours, theirs = made(out / cell.name), made(tmp_path / cell.name)
        assert set(theirs) == {key for key in ours if key.endswith(".safetensors")}
        assert all(ours[key] == theirs[key] for key in theirs)


def test_without_reuse_everybody_learns_everything(swept: tuple[Path, Swept, Told], tmp_path: Path) -> None:
    out, _, _ = swept
    alone = sweep(ablation(cells=CELLS[:2], protocols=()), tmp_path / "out", device="cpu", reuse=False)
    assert alone.failed == {}
    assert alone.pages == [], "nothing was judged"
    for name in ("dwf", "rate"):
        assert reused(tmp_path / "out" / name) == {}
        assert made(tmp_path / "out" / name).items() <= made(out / name).items()


def test_a_resumed_sweep_does_only_what_is_missing(swept: tuple[Path, Swept, Told], tmp_path: Path) -> None:
    out = shutil.copytree(swept[0], tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in out.rglob("model.safetensors")}
    expected = {name: made(out / name) for name in ("dwf", "rate", "radii")}
    shutil.rmtree(out / "rate" / "eval")
    shutil.rmtree(out / "radii")
    for page in out.glob("report.*"):
        page.unlink()
    told: Told = []
    ended = sweep(ablation(), out, device="cpu", resume=True, tell=lambda name, record: told.append((name, record)))
    assert len(ended.finished) == 3
    assert {name: made(out / name) for name in expected} == expected
    assert {name for name, record in told if record["event"] == "cell"} == {"rate", "radii"}
    untouched = {file for file in before if "radii" not in file.parts}
    assert all(file.stat().st_mtime_ns == before[file] for file in untouched)
    assert (out / "report.html").exists()


def test_a_sweep_can_be_had_in_parts(swept: tuple[Path, Swept, Told], tmp_path: Path) -> None:
    out = shutil.copytree(swept[0], tmp_path / "out")
    for weights in (out / "dwf").rglob("*.safetensors"):
        weights.unlink()
    shutil.rmtree(out / "rate")
    shutil.rmtree(out / "radii")
    told: Told = []
    part = sweep(ablation(), out, device="cpu", resume=True, only=["rate"], tell=lambda name, record: told.append((name, record)))
    assert [folder.name for folder in part.finished] == ["dwf", "rate"], "results outlast weights"
    assert {name for name, record in told if record["event"] == "cell"} == {"rate"}
    assert not (out / "radii").exists()
    assert reused(out / "rate") == {}, "the first cell's experts are gone"
    assert [folder.name for folder in sweep(ablation(), out, device="cpu", resume=True).finished] == ["dwf", "rate", "radii"]
    assert list((out / "dwf").rglob("*.safetensors")) == []
    with pytest.raises(Refused, match=r"the sweep has no cell 'ratio'; .*rate"):
        sweep(ablation(), out, device="cpu", resume=True, only=["ratio"])


def test_other_cells_or_protocols_are_another_sweep(swept: tuple[Path, Swept, Told]) -> None:
    out, _, _ = swept
    with pytest.raises(Refused, match="already holds a sweep; add --resume to go on with it or choose another folder with --out"):
        sweep(ablation(), out, device="cpu")
    for changed, words in (
        ({"samples": 30}, r"samples: 20 -> 30"),
        ({"set": (*COMMON, "method.pgd=2")}, r"cells.dwf.method.pgd: 1 -> 2"),
        ({"protocols": ()}, "protocols: "),
        ({"cells": CELLS[:2]}, "cells.radii"),
    ):
        with pytest.raises(Refused, match=f"was started with another file \\({words}.*; go on with the same, or use another --out"):
            sweep(ablation(**changed), out, device="cpu", resume=True)
    assert sweep(ablation(about="Other words"), out, device="cpu", resume=True).failed == {}


def test_protocols_that_nobody_was_judged_by_may_be_corrected(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    out.mkdir()
    _claim(RunFolder(out), ablation(samples=999_999), cells_of(ablation()), resume=False)
    (out / "dwf" / "eval").mkdir(parents=True)
    _claim(RunFolder(out), ablation(samples=30), cells_of(ablation()), resume=True)
    with pytest.raises(Refused, match=r"was started with another file"):
        _claim(RunFolder(out), ablation(samples=40), cells_of(ablation())[:1], resume=True)
    assert json.loads((out / "sweep.json").read_text())["samples"] == 30, "a refusal changes nothing"
    (out / "dwf" / "eval" / "table3.json").touch()
    with pytest.raises(Refused, match=r"was started with another file \(samples: 30 -> 20\)"):
        _claim(RunFolder(out), ablation(samples=20), cells_of(ablation()), resume=True)


@pytest.mark.parametrize(("content", "words"), [
    ("{", "sweep.json is damaged ("),
    ("3", "sweep.json is damaged ("),
    ('{"schema": "dwf.sweep/0"}', r"sweep.json was written with schema dwf.sweep/0, this version reads dwf.sweep/1; sweep again"),
])  # fmt: skip
def test_a_record_that_cannot_be_read_is_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(Refused, match=words.replace("(", r"\(")):
        sweep(ablation(), tmp_path, device="cpu", resume=True)


def test_a_cell_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    wild = ("method.experts.optimizer.learning_rate=1e30", "method.experts.epochs=3")
    cells = [
        CELLS[0],
        {"name": "joint", "set": ["method.joint.optimizer.learning_rate=1e30"]},
        {"name": "expert", "set": wild},
        {"name": "again", "set": [*wild, "method.gate_learning_rate=0.3"]},
    ]
    ended = sweep(ablation(cells=cells), tmp_path / "out", device="cpu")
    assert [path.name for path in ended.finished] == ["dwf"]
    assert ended.failed["joint"].startswith("the loss of phase 'joint' stopped being a number")
    for name in ("expert", "again"):
        assert re.match(r"phase 'expert/(pgd|fgsm|benign)-1': the ", ended.failed[name]), ended.failed[name]
        assert not (tmp_path / "out" / name / "model.safetensors").exists()
    assert ended.pages[0].exists()


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(Refused, match=r"is no sweep and holds photo.jpg; choose another folder with --out"):
        sweep(ablation(), tmp_path, device="cpu")


@pytest.mark.parametrize(("protocols", "words"), [
    ([{"name": "tabel3"}], "there is no protocol 'tabel3'; did you mean 'table3'"),
    ([{"name": "table3", "set": ["protocol.epsilon=1"]}], "'epsilon' is not a setting; did you mean 'eps'"),
    ([JUDGING, JUDGING], "the sweep judges by 'table3-.*' twice; name every protocol with its settings once"),
])  # fmt: skip
def test_bad_protocols_are_refused_before_anything_runs(protocols: list[Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=words):
        sweep(ablation(protocols=protocols), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_what_other_code_has_made_is_not_taken_over(swept: tuple[Path, Swept, Told], tmp_path: Path) -> None:
    """What was learnt by another version of the code, or with other data, is not ours, whatever the settings say."""
    out = shutil.copytree(swept[0], tmp_path / "out")
    shutil.rmtree(out / "rate")
    for file in out.glob("*/phases/*/decided.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "code": "another version"}, indent=1, sort_keys=True))
    assert sweep(ablation(), out, device="cpu", resume=True).failed == {}
    assert reused(out / "rate") == {}
