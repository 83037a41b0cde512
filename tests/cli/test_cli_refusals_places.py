"""What lies in the way: folders of somebody else's, names, damaged files, half an environment of torchrun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_words import SMALL, Dwf

from dwf import train
from dwf.core.errors import Refused
from dwf.run import Run

Sentence = Callable[..., str]
EVALUATE = [word for text in SMALL for word in ("--set", text)]


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_folder_of_somebody_elses(resume: list[str], refused: Sentence, tmp_path: Path) -> None:
    (tmp_path / "theirs" / "adversarial").mkdir(parents=True)
    words = ["train", "plain-digits", "--set", "method.recipe.epochs=1", "--device", "cpu", "--out", tmp_path / "theirs", *resume]
    assert refused(*words) == f"{tmp_path / 'theirs'} is no run and holds adversarial; choose another folder with --out"


def test_a_log_may_lie_where_a_run_begins(dwf: Dwf, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.log").touch()
    few = [word for text in ("data.limit=100", "method.recipe.epochs=1", "validation.steps=1") for word in ("--set", text)]
    assert dwf("train", "plain-digits", *few, "--device", "cpu", "--quiet", "--out", tmp_path / "mine").code == 0


@pytest.mark.parametrize("name", ["../mine", "a/b", ".hidden"])
def test_a_name_that_would_lie_elsewhere(name: str, refused: Sentence) -> None:
    assert "it also names a folder; leave out slashes" in refused("train", "plain-digits", "--set", f"name={name}")


def test_a_file_that_names_nothing_to_train(refused: Sentence, tmp_path: Path) -> None:
    (tmp_path / "empty.toml").touch()
    assert refused("plan", "empty.toml").startswith("empty.toml has no [method] and would train nothing that you named; ")


def test_a_crop_that_leaves_nothing_of_an_image(refused: Sentence) -> None:
    words = ["train", "plain-digits", "--set", "data.crop=16", "--device", "cpu", "--out", "made"]
    assert refused(*words).startswith("data.crop is 16 and the images have 16 pixels a side")


@pytest.mark.parametrize(("change", "sentence"), [
    ({"WORLD_SIZE": "3"}, "WORLD_SIZE is 3 and RANK is not set; start dwf by torchrun, or unset WORLD_SIZE"),
    ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many' and no number; start dwf by torchrun, or unset it"),
])  # fmt: skip
def test_half_an_environment_of_torchrun(
    change: dict[str, str], sentence: str, refused: Sentence, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*next(iter(change.items())))
    assert refused("evaluate", run_folder, *EVALUATE, "--device", "cpu") == sentence


def test_a_finished_result_that_is_damaged(dwf: Dwf, refused: Sentence, run_folder: Path) -> None:
    words = ["evaluate", run_folder, *EVALUATE, "--samples", 20, "--device", "cpu", "--quiet"]
    assert dwf(*words).code == 0
    (file,) = (run_folder / "eval").glob("*.json")
    file.write_text('{"mean":')
    assert f"{file} is damaged (" in refused(*words, "--resume")


def test_a_damaged_journal_is_found_before_anything_is_learnt(run_folder: Path) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    (run_folder / "model.safetensors").unlink()
    (run_folder / "train.jsonl").write_text("{torn\n" + (run_folder / "train.jsonl").read_text())
    with pytest.raises(Refused, match=r"train.jsonl is damaged, its line 1 is no JSON object"):
        train(Run.read(record["settings"]), run_folder, device="cpu", resume=True)
    assert not (run_folder / "model.safetensors").exists()


def test_a_file_that_is_no_run_folder(refused: Sentence, run_folder: Path) -> None:
    assert refused("evaluate", run_folder / "run.json") == (
        f"{run_folder / 'run.json'} is a file; name the folder of a run, where its run.json is"
    )


def test_a_name_that_no_file_system_takes(refused: Sentence, tmp_path: Path) -> None:
    assert "cannot be written (File name too long); choose another place" in refused(
        "train", "plain-digits", "--out", tmp_path / ("a" * 300)
    )


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_journal_that_is_no_text(content: bytes | None, refused: Sentence, run_folder: Path) -> None:
    results = run_folder / "eval"
    results.mkdir(exist_ok=True)
    if content is None:
        (results / "table3.json").mkdir()
        assert f"{results / 'table3.json'} cannot be read (Is a directory); evaluate the run again" in refused("report", run_folder)
    else:
        (results / "table3.json").write_text("{}")
        (run_folder / "train.jsonl").write_bytes(content)
        assert "train.jsonl is damaged, its byte 0 is no text; restore it" in refused("report", run_folder)


def test_a_resume_on_other_images(run_folder: Path) -> None:
    """The settings are the same, and what lay under the path is not."""
    record = json.loads((run_folder / "run.json").read_text())
    for data, shown in (({**record["data"], "sha256": "0" * 64}, "00000000"), ({}, "None")):
        (run_folder / "run.json").write_text(json.dumps({**record, "data": data}))
        with pytest.raises(Refused, match=rf"was started on other images \(sha256 {shown}, now \w{{8}}\); put those back, or"):
            train(Run.read(record["settings"]), run_folder, device="cpu", resume=True)
