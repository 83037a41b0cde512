"""What works, and what there is to choose from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_words import SMALL, SMALL_NAME, Dwf

from dwf import cli
from dwf.attacks import ATTACKS
from dwf.data import DATASETS
from dwf.evaluation import PROTOCOLS
from dwf.methods import METHODS
from dwf.models import BACKBONES
from dwf.run import presets, read

VERBS = sorted(command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback)
FEW = [word for text in ("data.limit=120", "method.recipe.epochs=1", "method.backbone.width=2", "validation.steps=1",
                         'data.source={kind="digits",size=8}') for word in ("--set", text)]  # fmt: skip


def test_help_is_an_answer(dwf: Dwf) -> None:
    code, out, _ = dwf("--help")
    assert code == 0
    assert all(verb in out for verb in VERBS)
    assert "Start with: dwf demo" in out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str, dwf: Dwf) -> None:
    code, out, _ = dwf(verb, "--help")
    assert code == 0
    assert f"Example: dwf {verb}" in out


def test_without_words_comes_help(dwf: Dwf) -> None:
    code, out, err = dwf()
    assert code == 2
    assert "Usage" in out + err


def test_list_as_json_shows_every_registry(dwf: Dwf) -> None:
    code, out, _ = dwf("list", "--json")
    assert code == 0
    shelves = json.loads(out)
    families = {"attacks": ATTACKS, "backbones": BACKBONES, "methods": METHODS, "protocols": PROTOCOLS, "presets": presets()}
    for shelf, family in families.items():
        assert set(shelves[shelf]) == set(family)
    assert set(shelves["datasets"]) >= {*DATASETS, "cifar10"}
    assert all(about.strip() for shelf in shelves.values() for about in shelf.values())


def test_list_for_people_shows_one_shelf(dwf: Dwf) -> None:
    code, out, _ = dwf("list", "methods")
    assert code == 0
    assert all(name in out for name in METHODS)
    assert "table3" not in out
    assert " ".join(out.split()).count("Forward + backward passes of all that a phase trains, an image and epoch: ") == len(METHODS)
    assert "train 13 + 12." in " ".join(out.split()), "TRADES with ten steps"


def test_doctor_is_well(dwf: Dwf) -> None:
    code, out, _ = dwf("doctor")
    assert code == 0, out
    for fact in ("dwf", "python", "torch", "device", "threads", "bf16", "free disc"):
        assert f"{fact} " in out


@pytest.mark.parametrize("name", presets())
def test_every_preset_can_be_read_and_says_what_it_is(name: str) -> None:
    run = read(name)
    assert run.about.strip()
    assert run.name == name
    assert type(run).read(run.model_dump(mode="json")) == run


def test_overrides_reach_the_run() -> None:
    run = read("plain-digits", ["seed=7", "method.recipe.epochs=3", "name=other", "method.recipe.optimizer.learning_rate=0.5"])
    assert (run.seed, run.name) == (7, "other")
    assert run.method.model_dump()["recipe"]["epochs"] == 3
    assert run.method.model_dump()["recipe"]["optimizer"]["learning_rate"] == 0.5


def test_train_evaluate_report(dwf: Dwf, tmp_path: Path) -> None:
    code, out, err = dwf("train", "plain-digits", *FEW, "--device", "cpu")
    assert code == 0, err
    folder = Path("runs") / "plain-digits"
    assert f"Trained: {folder}\nNext: dwf evaluate {folder} --protocol table3" in out
    for name in ("run.json", "train.jsonl", "model.safetensors"):
        assert (folder / name).is_file()

    small = [word for text in SMALL for word in ("--set", text)]
    code, out, err = dwf("evaluate", folder, *small, "--samples", 60, "--batch", 25, "--device", "cpu")
    assert code == 0, err
    result = json.loads((folder / "eval" / f"{SMALL_NAME}.json").read_text())
    assert result["dataset"] == {**result["dataset"], "name": "digits", "split": "test", "n": 60}
    assert {row["name"] for row in result["attacks"]} >= {"fgsm-0.01", "fgsm", "pgd-1", "pgd-2", "pgd-3x2", "pgd-3-eot1"}
    assert "check 9/9" in out
    assert "plain-digits" in out

    code, out, err = dwf("report", folder)
    assert code == 0, err
    for suffix in (".html", ".csv", ".md", ".tex"):
        page = folder / f"report{suffix}"
        assert page.stat().st_size > 100
        assert page.name in out
    assert "plain-digits" in (folder / "report.html").read_text()


def test_a_second_seed_gets_a_folder_of_its_own(dwf: Dwf) -> None:
    code, out, err = dwf("train", "plain-digits", *FEW, "--device", "cpu", "--quiet", "--seed", 3)
    assert code == 0, err
    assert "Trained: runs/plain-digits-seed3" in out
    assert json.loads(Path("runs/plain-digits-seed3/run.json").read_text())["seed"] == 3


def test_the_held_out_images_can_judge(dwf: Dwf, run_folder: Path) -> None:
    small = [word for text in SMALL for word in ("--set", text)]
    code, _, err = dwf("evaluate", run_folder, *small, "--split", "val", "--device", "cpu", "--quiet")
    assert code == 0, err
    result = json.loads((run_folder / "eval" / f"{SMALL_NAME}.json").read_text())
    assert (result["dataset"]["split"], result["dataset"]["n"]) == ("val", 20)


def test_tensorboard_is_written_below_the_run(dwf: Dwf) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    assert dwf("train", "plain-digits", *FEW, "--device", "cpu", "--quiet", "--tensorboard").code == 0
    (file,) = Path("runs/plain-digits/tensorboard").iterdir()
    assert b"train/loss" in file.read_bytes()


def test_three_lines_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dwf import evaluate, read, train, write_report

    monkeypatch.chdir(tmp_path)
    train(read("plain-digits", [text for text in FEW if text != "--set"]), "runs/digits", device="cpu")
    result = evaluate("runs/digits", "table3", overrides=SMALL, samples=40, device="cpu")
    pages = write_report(["runs/digits"], "runs/digits/report.html")
    assert result.clean.n == 40
    assert all(page.is_file() for page in pages)


def test_what_the_package_does_not_have_is_an_attribute_error() -> None:
    import dwf

    with pytest.raises(AttributeError, match="module 'dwf' has no attribute 'trian'"):
        dwf.trian  # noqa: B018


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, dwf.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_training_waits_for_nothing_that_only_a_report_needs() -> None:
    code = "import sys, dwf.verbs.train; print(*{'matplotlib', 'scipy.stats', 'triton'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split() == []
