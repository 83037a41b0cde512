"""Folders that cannot be reported are refused in one sentence that says what to do."""

import json
import re

import numpy as np
import pytest

from dwf import report
from dwf.core.errors import Refused
from dwf.report.reading import by_run, read_all


def refused(folder, *words):
    with pytest.raises(Refused) as caught:
        report.write([folder], folder.parent / "out" / "report.html")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    assert not (folder.parent / "out").exists()


def test_reads_everything(folder):
    (one,) = report.read(folder)
    assert (one.run, one.name, one.method, len(one.classes)) == ("dwf", "table3", "dwf", 10)
    assert one.images is not None
    assert one.journal[-1]["event"] == "done"
    assert one.headline is not None


def test_a_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", "nowhere does not exist", "dwf train PRESET --out")


def test_a_folder_that_is_no_run(tmp_path):
    (tmp_path / "other").mkdir()
    refused(tmp_path / "other", "is not a run folder", "run.json")


def test_a_run_without_an_evaluation(folder):
    for file in (folder / "eval").iterdir():
        file.unlink()
    refused(folder, "has no evaluation", f"dwf evaluate {folder} --protocol table3")


@pytest.mark.parametrize(("change", "words"), [({"schema": 0}, "with schema 0, this version reads 1; train it again"),
                                               ({"spec": 3}, "'spec' is missing or not a table"),
                                               ({"data": []}, "'data' is missing or not a table")])  # fmt: skip
def test_another_schema(folder, change, words):
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | change))
    refused(folder, words)


def test_a_record_with_a_hole(folder):
    record = json.loads((folder / "run.json").read_text())
    del record["seed"]
    (folder / "run.json").write_text(json.dumps(record))
    refused(folder, "run.json is damaged ('seed' is missing); restore it or train the run again")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("run.json", "{", "run.json is damaged"),
        ("run.json", "[]", "run.json is damaged (it is not a table)"),
        ("eval/table3.json", "{]", "table3.json is damaged"),
        ("eval/table3.json", "{}", "is not a result file"),
        ("eval/table3.json", '{"schema": 99}', "schema 99"),
        ("eval/table3.json", '{"schema": 1}', "is required and was not given"),
        ("train.jsonl", "{oops}\n", "train.jsonl is damaged"),
        ("eval/table3.images.npz", "not a zip", "images cannot be read"),
        ("plan.json", "[]", "plan.json is no plan"),
        ("plan.json", '{"phases": [], "settings": {}}', "lacks settings or environment"),
    ],
)
def test_damaged_files(folder, file, text, words):
    (folder / file).write_text(text)
    refused(folder, words)


def test_an_output_that_is_no_page(folder):
    with pytest.raises(Refused, match=re.escape(".html")):
        report.write([folder], folder / "report.txt")


def test_no_runs():
    with pytest.raises(Refused, match="at least one run"):
        read_all([])


def test_equal_names_are_told_apart_and_equal_folders_read_once(tmp_path, build):
    first, second = build("a"), build("b")
    record = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps(record | {"name": "a"}))
    names = [one.run for one in read_all([first, second, first])]
    assert names == [f"a ({first})", f"a ({second})"]


def test_a_run_without_gate_images_and_journal(build):
    folder = build("plain", gate=0, pictures=False)
    (folder / "train.jsonl").unlink()
    (one,) = report.read(folder)
    assert (one.images, one.journal, one.result.routing) == (None, (), None)
    text = report.page([one], report.FIGURES)
    for heading in ("Routing", "Images", "Training"):
        assert f">{heading}</h2>" not in text
    assert ">Results</h2>" in text


def test_a_flipped_byte_of_packed_images(folder):
    file = folder / "eval" / "table3.images.npz"
    with np.load(file) as stored:
        np.savez_compressed(file, **stored)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(255 - byte for byte in content[middle : middle + 40])
    file.write_bytes(content)
    refused(folder, "images cannot be read")


def test_settings_of_the_model_are_none_of_the_protocol(build):
    """`table3@alpha0.9` asks another model by the protocol's own settings; what was trained goes by its own name."""
    folder = build("a", evaluations=("autoattack@alpha0.9", "table3"))
    file = folder / "eval" / "autoattack@alpha0.9.json"
    found = json.loads(file.read_text())
    found["protocol"]["name"] = "autoattack"
    found["model"]["overridden"] = {"alpha": 0.9}
    file.write_text(json.dumps(found))
    evaluated = report.read(folder)
    assert [(one.run, one.tag) for one in evaluated] == [("a (alpha 0.9)", ""), ("a", "")]
    assert [one.run for one in by_run(evaluated)] == ["a"]
