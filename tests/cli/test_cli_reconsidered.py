"""`dwf evaluate RUN --set method.alpha=...`: other settings of a trained model, in files of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_words import Dwf

from dwf import report, train
from dwf.attacks import Pgd
from dwf.data import Data, Digits
from dwf.evaluation.validation import Validation
from dwf.methods import Jtdmoe, RtEr
from dwf.models import ResNet
from dwf.report.commands import command
from dwf.run import Run, load
from dwf.training.optim import Recipe, Sgd

QUICK = [
    *("--protocol", "standard", "--samples", 20, "--quiet"),
    *(word for text in ("steps=1", "apgd_steps=1", "targets=1", "linf=[0.1]", "l2=[]") for word in ("--set", f"protocol.{text}")),
]


@pytest.fixture(scope="session")
def _dual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dual") / "run"
    recipe, net = Recipe(epochs=1, batch=20, optimizer=Sgd(learning_rate=0.05)), ResNet(depth=10, width=2)
    robust = RtEr(backbone=net, experts=2, attack=Pgd(steps=1), recipe=recipe)
    run = Run(
        name="tiny",
        data=Data(source=Digits(size=8), limit=80, crop=1, flip=False),
        method=Jtdmoe(backbone=net, robust=robust, standard=recipe, joint=recipe),
        validation=Validation(samples=20, steps=1),
    )
    train(run, folder, device="cpu")
    return folder


@pytest.fixture
def dual(_dual: Path, tmp_path: Path) -> Path:
    return shutil.copytree(_dual, tmp_path / "mine")


def results(folder: Path) -> dict[str, dict]:
    return {file.stem.partition("@")[2]: json.loads(file.read_text()) for file in (folder / "eval").glob("*.json")}


def test_alpha_is_swept_without_training_again(dwf: Dwf, dual: Path) -> None:
    weights = (dual / "model.safetensors").read_bytes()
    assert dwf("evaluate", dual, *QUICK).code == 0
    assert dwf("evaluate", dual, *QUICK, "--set", "method.alpha=0.2").code == 0
    assert dwf("evaluate", dual, *QUICK, "--set", "method.alpha=1", "--set", "method.mixing=logits").code == 0
    found = results(dual)
    assert set(found) == {"", "alpha0.2", "alpha1@mixinglogits"}
    assert [found[name]["model"]["settings"]["alpha"] for name in found] == [0.7 if not name else float(name[5:8].strip("@m"))
                                                                             for name in found]  # fmt: skip
    assert found[""]["model"]["overridden"] == {}
    assert found["alpha0.2"]["model"]["overridden"] == {"alpha": 0.2}
    assert found["alpha0.2"]["run"] == "tiny (alpha 0.2)"
    assert found[""]["routing"]["clean"]["weights"] != found["alpha0.2"]["routing"]["clean"]["weights"]
    assert sum(found["alpha0.2"]["routing"]["clean"]["weights"][2:]) == pytest.approx(0.2)
    assert (dual / "model.safetensors").read_bytes() == weights
    assert load(dual).run.method.alpha == 0.7


def test_the_same_value_is_the_same_evaluation(dwf: Dwf, dual: Path) -> None:
    assert dwf("evaluate", dual, *QUICK, "--set", "method.alpha=0.7").code == 0
    assert set(results(dual)) == {""}


def test_nothing_is_overwritten_and_a_finished_one_is_read_back(dwf: Dwf, dual: Path) -> None:
    assert dwf("evaluate", dual, *QUICK, "--set", "method.alpha=0.2").code == 0
    before = results(dual)
    code, _, err = dwf("evaluate", dual, *QUICK, "--set", "method.alpha=0.2")
    assert code == 2
    assert "is there already, made with the same settings" in err
    assert dwf("evaluate", dual, *QUICK, "--set", "method.alpha=0.2", "--resume").code == 0
    assert results(dual) == before
    code, _, err = dwf("evaluate", dual, *QUICK, "--set", "method.alpha=0.20001", "--resume")
    assert code == 2, "it rounds to the same name and is another evaluation"
    assert "holds an evaluation with other settings" in err


def test_the_report_tells_the_runs_apart_and_gives_the_command(dwf: Dwf, dual: Path) -> None:
    assert dwf("evaluate", dual, *QUICK).code == 0
    assert dwf("evaluate", dual, *QUICK, "--set", "method.robust.selection=soft").code == 0
    plain, soft = report.read(dual)
    assert (plain.run, soft.run) == ("tiny", "tiny (robust.selection soft)")
    assert '--set=method.robust.selection="soft"' in command(soft).replace("'", "")
    assert "method." not in command(plain)
    assert dwf("report", dual).code == 0
    page = (dual / "report.html").read_text() if (dual / "report.html").exists() else next(Path().glob("*.html")).read_text()
    assert "tiny (robust.selection soft)" in page
    assert "method.robust.selection = soft" in page


def test_one_of_its_phases_can_be_asked_otherwise(dwf: Dwf, dual: Path) -> None:
    assert dwf("evaluate", dual, *QUICK, "--phase", "robust", "--set", "method.robust.selection=soft").code == 0
    (result,) = results(dual / "phases" / "robust").values()
    assert max(result["routing"]["clean"]["weights"]) < 1
    assert result["model"]["overridden"] == {"robust.selection": "soft"}


@pytest.mark.parametrize(("text", "words"), [
    ("method.alpha=2", "--set: 'method.alpha' is 2: input should be less than or equal to 1"),
    ("method.alpa=0.5", "'method.alpa' of 'jtdmoe' cannot change after training; did you mean 'alpha'?"),
    ("method.robust.experts=3", "'method.robust.experts' of 'jtdmoe' cannot change after training; "),
    ("method.joint.epochs=3", "'method.joint.epochs' of 'jtdmoe' cannot change after training; Valid: alpha, mixing"),
])  # fmt: skip
def test_what_training_has_fixed_is_refused(text: str, words: str, refused, dual: Path) -> None:
    assert words in refused("evaluate", dual, *QUICK, "--set", text)
    assert not (dual / "eval").exists()
