"""Every bad input ends with one sentence and a non-zero exit, never with a traceback."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_words import SMALL, SMALL_NAME, Dwf
from PIL import Image

Refused = Callable[..., str]
EVALUATE = [word for text in SMALL for word in ("--set", text)]


@pytest.mark.parametrize(("words", "sentence"), [
    (["train", "dwf-cifar"], "'dwf-cifar' is neither a preset nor a .toml file; did you mean 'dwf-cifar10'? Valid: "),
    (["train", "mine.toml"], "mine.toml does not exist; give a .toml file or a preset: advmoe-cifar10"),
    (["train", "plain-digits", "--set", "method.recipe.epoch=3"],
     "plain-digits: 'method.recipe.epoch' is not a setting; did you mean 'epochs'? Valid: "),
    (["train", "plain-digits", "--set", "sed=3"], "plain-digits: 'sed' is not a setting; did you mean 'seed'? Valid: "),
    (["train", "plain-digits", "--set", "method.recipe.epochs=many"],
     "plain-digits: 'method.recipe.epochs' is 'many': input should be a valid integer"),
    (["train", "plain-digits", "--set", "method.kind=plane"],
     "plain-digits: 'method.kind' is 'plane', which does not exist; did you mean 'plain'? "
     "Valid: adversarial, advmoe, dwf, fast, free, immunity, jtdmoe, plain, rt-er, soe, trades"),
    (["train", "pgd-at-digits", "--set", "method.attack.threat.eps=8"], "for 8-bit steps write '8/255'"),
    (["train", "dwf-digits", "--set", "method.fgsm_eps=[8]"], "for 8-bit steps write '8/255'"),
    (["train", "plain-digits", "--set", "seed"],
     "--set 'seed' is not of the form a.b=value, such as method.recipe.epochs=3"),
    (["train", "plain-digits", "--set", "a..b=1"], "--set 'a..b=1' is not of the form a.b=value"),
    (["train", "plain-digits", "--set", "name.size=8"],
     "--set 'name.size=8': 'name' is 'plain-digits' and not a table; leave out what follows 'name'"),
    (["train", "plain-digits", "--data", "cifar"], "there is no data set and no folder 'cifar'; did you mean 'cifar10'? Valid: "),
    (["train", "plain-digits", "--device", "quantum"],
     "device 'quantum' is not available here; use auto, cpu, cuda, cuda:N or mps"),
    (["train", "plain-digits", "--set", "method.recipe.batch=5000"], "batch is 5000, but there are "),
    (["train", "plain-digits", "--set", "data.limit=5"], "data.limit is 5, which leaves images of 5 classes out of 10; raise it"),
    (["train", "plain-digits", "--set", "data.limit=12"],
     "has a single image, and both training and validation need one; add images, raise data.limit, or leave the class out"),
    (["evaluate", "nowhere"], "run folder nowhere does not exist; train one with: dwf train PRESET --out nowhere"),
    (["report", "nowhere"], "run folder nowhere does not exist; train one with: dwf train PRESET --out nowhere"),
    (["list", "nonsense"], "there is nothing called 'nonsense' to list; Valid: attacks, backbones, datasets, methods, presets, "),
    (["list", "method"], "there is nothing called 'method' to list; did you mean 'methods'? Valid: "),
], ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "")  # fmt: skip
def test_bad_words(words: list[str], sentence: str, refused: Refused, tmp_path: Path) -> None:
    assert sentence in refused(*words)
    assert not list(tmp_path.rglob("run.json")), "nothing was begun"


@pytest.mark.parametrize(("content", "words"), [
    (b"a = [1,", "mine.toml is not a readable TOML file: "),
    (b"\xff\xfe", "mine.toml is not a readable TOML file: "),
    (b"method = 3", "mine.toml: 'method' is 3: "),
    (b"[methods]", "mine.toml: 'methods' is not a setting; did you mean 'method'?"),
    (b"[method]\nepochs = 3", "mine.toml: 'method' needs a 'kind'"),
    (b"name = ''", "mine.toml: 'name' is '': string should have at least 1 character"),
])  # fmt: skip
def test_bad_toml(content: bytes, words: str, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    assert words in refused("train", "mine.toml", "--out", "out")


def test_a_folder_that_is_no_run(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for verb in ("evaluate", "report"):
        assert refused(verb, "empty") == (
            "empty is not a run folder: it has no run.json; train one with: dwf train PRESET --out ..."
        )


@pytest.mark.parametrize(("content", "words"), [
    ("{", "is damaged ("),
    ("[]", "is damaged (it is not a table); restore it or train the run again"),
    ("null", "is damaged (it is not a table)"),
    ('{"schema": 1}', "is damaged ('settings' is missing or not a table)"),
    ('{"schema": 1, "settings": [], "spec": {}}', "is damaged ('settings' is missing or not a table)"),
    ('{"schema": 99}', "was written with schema 99, this version reads 1; train it again"),
    ("{}", "was written with schema None, this version reads 1; train it again"),
])  # fmt: skip
def test_a_damaged_or_foreign_record(content: str, words: str, refused: Refused, run_folder: Path) -> None:
    (run_folder / "run.json").write_text(content)
    for verb in (["evaluate", run_folder, *EVALUATE], ["report", run_folder]):
        sentence = refused(*verb)
        assert words in sentence
        assert str(run_folder) in sentence


def test_a_record_that_cannot_be_read(refused: Refused, run_folder: Path) -> None:
    (run_folder / "run.json").unlink()
    (run_folder / "run.json").mkdir()
    for verb in (["evaluate", run_folder, *EVALUATE], ["report", run_folder]):
        assert f"{run_folder / 'run.json'} cannot be read (Is a directory); repair its rights" in refused(*verb)


def test_a_record_without_its_data(refused: Refused, run_folder: Path) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    (run_folder / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k != "data"}))
    assert "is damaged ('data' is missing or not a table)" in refused("evaluate", run_folder, *EVALUATE)


def test_an_unfinished_run(refused: Refused, run_folder: Path) -> None:
    (run_folder / "model.safetensors").unlink()
    expected = f"{run_folder} is not trained to the end: it has no model.safetensors; go on with dwf train and --resume"
    assert refused("evaluate", run_folder, *EVALUATE) == expected


@pytest.mark.parametrize("keep", [0, 7, 5000])
def test_truncated_weights(keep: int, refused: Refused, run_folder: Path) -> None:
    file = run_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert f"{file} is damaged or no safetensors file (" in refused("evaluate", run_folder, *EVALUATE)


def test_weights_of_another_model(refused: Refused, run_folder: Path) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    record["settings"]["method"]["backbone"]["width"] = 3
    (run_folder / "run.json").write_text(json.dumps(record))
    sentence = refused("evaluate", run_folder, *EVALUATE)
    assert f"the weights in {run_folder / 'model.safetensors'} do not fit the model of its settings: " in sentence


def test_a_place_that_cannot_be_written(refused: Refused, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "run"
    assert refused("train", "plain-digits", "--out", below) == (
        f"{below} cannot be written (Not a directory); choose another place"
    )
    assert "cannot be written" in refused("train", "plain-digits", "--out", tmp_path / "file")


def test_a_report_that_cannot_be_written(dwf: Dwf, refused: Refused, run_folder: Path, tmp_path: Path) -> None:
    assert dwf("evaluate", run_folder, *EVALUATE, "--samples", 20, "--quiet").code == 0
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("report", run_folder, "--out", tmp_path / "file" / "page.html")
    assert "does not end in .html" in refused("report", run_folder, "--out", tmp_path / "page.pdf")


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disc_while_training(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("dwf.core.files.os.fsync", _full)
    sentence = refused("train", "plain-digits", "--out", tmp_path / "out")
    assert sentence.startswith(f"no space left on the device while writing {tmp_path / 'out'}")
    assert sentence.endswith("; free some and run the command again")
    assert not list(tmp_path.rglob("*.writing"))


def test_a_full_disc_while_writing_weights(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "write_bytes", _full)
    few = ["--set", "data.limit=100", "--set", "method.recipe.epochs=1", "--set", "validation.steps=1", "--quiet"]
    sentence = refused("train", "plain-digits", "--out", tmp_path / "out", *few)
    assert sentence.startswith(f"no space left on the device while writing {tmp_path / 'out' / 'state'}")
    assert not list(tmp_path.rglob("*.writing"))


def test_a_full_disc_while_evaluating(refused: Refused, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwf.core.files.os.fsync", _full)
    assert "no space left on the device while writing" in refused("evaluate", run_folder, *EVALUATE, "--samples", 20)


@pytest.mark.parametrize(("words", "sentence"), [
    (["--set", "method.kind=plain"],
     "'method.kind' of 'plain' cannot change after training; leave it out, this method has no setting that can"),
    (["--set", "train.clip=1"],
     "evaluate takes protocol.a=b, data.source.a=b and, for what may change after training, method.a=b, not 'train'"),
    (["--set", "protocol.ep=0.02"], "protocol 'table3': 'ep' is not a setting; did you mean 'eps'?"),
    (["--set", "protocol.eps=8"], "protocol 'table3': 'eps' is 8: it is a share of the pixel range and must be below 1; "
                                  "for 8-bit steps write '8/255'"),
    (["--set", "protocol.steps=[5,5]"], "'steps' [5, 5] and then 'final' 100 must ascend strictly, from 1 up"),
    (["--set", "protocol=3"], "protocol"),
    (["--protocol", "tabel3"], "there is no protocol 'tabel3'; did you mean 'table3'? Valid: "),
    (["--samples", "501"], "501 images of digits were asked for, but there are 500; ask for 1 to 500"),
    (["--device", "quantum"], "device 'quantum' is not available here"),
])  # fmt: skip
def test_bad_words_for_an_evaluation(words: list[str], sentence: str, refused: Refused, run_folder: Path) -> None:
    assert sentence in refused("evaluate", run_folder, *words)
    assert not (run_folder / "eval").exists()


def test_an_evaluation_that_is_there_already(dwf: Dwf, refused: Refused, run_folder: Path) -> None:
    words = ["evaluate", run_folder, *EVALUATE, "--samples", 30, "--device", "cpu", "--quiet"]
    assert dwf(*words).code == 0
    file = run_folder / "eval" / f"{SMALL_NAME}.json"
    before = file.read_bytes()
    assert refused(*words) == (
        f"{file} is there already, made with the same settings; delete it to evaluate again, or add --resume to keep it"
    )
    for more in (["--seed", 1], ["--batch", 7], ["--samples", 29]):
        for resume in ([], ["--resume"]):
            assert refused(*words, *more, *resume) == (
                f"{file} holds an evaluation with other settings, images or weights; move it away or delete it first"
            )
    assert dwf(*words, "--resume").code == 0
    assert file.read_bytes() == before


@pytest.mark.parametrize("leave", [None, 100], ids=["missing", "truncated"])
def test_an_evaluation_without_its_bits(dwf: Dwf, refused: Refused, run_folder: Path, leave: int | None) -> None:
    words = ["evaluate", run_folder, *EVALUATE, "--samples", 30, "--device", "cpu", "--quiet"]
    assert dwf(*words).code == 0
    bits = run_folder / "eval" / f"{SMALL_NAME}.npz"
    bits.unlink() if leave is None else os.truncate(bits, leave)
    sentence = refused(*words, "--resume")
    assert sentence.startswith(f"{bits} is missing or damaged (")
    assert sentence.endswith("delete what is left of this evaluation and run it again")


def test_a_run_that_is_there_already(refused: Refused, run_folder: Path) -> None:
    assert refused("train", "plain-digits", "--out", run_folder) == (
        f"{run_folder} already holds a run; add --resume to continue it or choose another folder with --out"
    )


def test_a_resume_with_other_settings(refused: Refused, run_folder: Path) -> None:
    begun = run_folder / "begun.toml"
    begun.write_text('name = "tiny"')
    settings = json.loads((run_folder / "run.json").read_text())["settings"]
    words = [word for key in ("data", "method", "validation") for word in ("--set", f"{key}={_toml(settings[key])}")]
    sentence = refused("train", begun, *words, "--out", run_folder, "--resume", "--seed", 3)
    assert sentence == f"{run_folder} was started with other settings (seed: 0 -> 3); resume with the same, or use another --out"
    sentence = refused("train", begun, *words, "--out", run_folder, "--resume", "--set", "method.recipe.optimizer.momentum=0.5")
    assert "started with other settings (method.recipe.optimizer.momentum: 0.9 -> 0.5); resume with the same" in sentence


def _toml(value: Any) -> str:
    """A JSON value as an inline TOML one; what is null is left out."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items() if inner is not None) + "}"
    return json.dumps(value)


def test_a_batch_that_does_not_fit_leaves_the_folder_free(dwf: Dwf, refused: Refused) -> None:
    few = ["--set", "data.limit=100", "--set", "method.recipe.epochs=1", "--set", "validation.steps=1", "--quiet"]
    words = ["train", "plain-digits", "--out", "out", *few]
    assert "batch is 91, but there are 90 training images" in refused(*words, "--set", "method.recipe.batch=91")
    assert dwf(*words, "--set", "method.recipe.batch=90").code == 0


def test_a_run_without_evaluations(refused: Refused, run_folder: Path) -> None:
    assert refused("report", run_folder) == (
        f"run {run_folder} has no evaluation to report; evaluate it first: dwf evaluate {run_folder} --protocol table3"
    )


def _parquet(folder: Path, labels: list[int], names: list[str] | None) -> Path:
    folder.mkdir()
    random = np.random.default_rng(0)
    rows = []
    for _ in labels:
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "path": None})
    table = pa.table({"image": pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()})), "label": labels})
    if names:
        features: Any = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    for split in ("train", "test"):
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize(("labels", "names", "sentence"), [
    ([0, 1, 2] * 8, ["cat", "dog"], "row 2 has the label 2, but the 2 classes end at 1, and 7 more of the 24 entries are bad; "
                                    "repair the data or leave them out with --set data.source.bad=skip"),
    ([0, -1] * 8, ["cat", "dog"], "row 1 has the label -1, which is negative"),
    ([1] * 24, ["cat", "dog"], "holds 24 images, all of class 'dog', and a classifier needs at least 2 classes"),
    ([0] * 23 + [1], None, "class 1 has a single image, and both training and validation need one"),
    ([0, 1] * 12, None, "batch is 64, but there are 22 training images; use a batch of 1 to 22"),
])  # fmt: skip
def test_bad_data(labels: list[int], names: list[str] | None, sentence: str, refused: Refused, tmp_path: Path) -> None:
    folder = _parquet(tmp_path / "images", labels, names)
    assert sentence in refused("train", "plain-digits", "--data", folder, "--out", tmp_path / "out")


def test_an_evaluation_whose_data_is_gone(refused: Refused, tmp_path: Path, dwf: Dwf) -> None:
    folder = _parquet(tmp_path / "images", [0, 1] * 20, None)
    few = ["--set", "method.recipe.epochs=1", "--set", "method.recipe.batch=8", "--set", "validation.steps=1", "--quiet"]
    assert dwf("train", "plain-digits", "--data", folder, "--out", "out", *few).code == 0
    (folder / "test-00000-of-00001.parquet").unlink()
    assert "has no test images: looked for test*.parquet" in refused("evaluate", "out", *EVALUATE)
    (folder / "train-00000-of-00001.parquet").unlink()
    folder.rmdir()
    assert f"'{folder}' is not a folder" in refused("evaluate", "out", *EVALUATE)
