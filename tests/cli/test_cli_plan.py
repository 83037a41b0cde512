"""`dwf plan`: what a run will cost, and in the report what it did cost."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_words import SMALL, Dwf

from dwf.core.wording import duration
from dwf.report import write as write_report
from dwf.run import read
from dwf.training.checkpoint import load_weights
from dwf.verbs import plan, train
from dwf.verbs.plan import LAUNCH, PEAK, SHARE, Work, elsewhere

AVERAGE = ("train.average=0.99",)
QUICK = ("data.limit=200", "method.backbone={kind='resnet', depth=10, width=2}", "method.recipe.epochs=2", "validation.samples=20")


@pytest.fixture(autouse=True)
def _no_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting nine ResNet-18 takes seconds, and one test of it is enough."""
    monkeypatch.setattr(sys.modules["dwf.verbs.plan"], "paper_work", lambda: [Work(4e18, 1e9)])


def words(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def reported(folder: Path) -> str:
    write_report([folder / "runs/here"], folder / "report.html")
    return (folder / "report.html").read_text()


def test_a_plan_is_shown_kept_and_held_against_the_run(dwf: Dwf, tmp_path: Path) -> None:
    said = dwf("plan", "pgd-at-digits", *words(QUICK), "--out", "runs/here")
    assert said.code == 0, said.err
    lines = said.out[said.out.index("H100") :].splitlines()
    last = {line.split()[0]: " ".join(line.split()[-2:]) for line in lines if line.strip()}
    kept = json.loads((tmp_path / "runs/here/plan.json").read_text())
    assert "2 bf16 cores" in lines[0]
    assert last["train"] == last["all"] == duration(kept["phases"][0]["flops"] / 0.6e12)
    kept = json.loads((tmp_path / "runs/here/plan.json").read_text())
    (phase,) = kept["phases"]
    assert (phase["name"], phase["rounds"], phase["images"]) == ("train", 2, 2 * 128)
    assert min(phase[key] for key in ("flops", "memory", "seconds")) > 0

    assert dwf("train", "pgd-at-digits", *words(QUICK), "--out", "runs/here", "-q").code == 0
    assert dwf("evaluate", "runs/here", "--protocol", "table3", *words(SMALL), "--samples", "20", "-q").code == 0
    page = reported(tmp_path)
    assert "Planned and spent, phase by phase" in page

    kept["settings"]["seed"] = 7
    (tmp_path / "runs/here/plan.json").write_text(json.dumps(kept))
    page = reported(tmp_path)
    assert "Planned and spent" not in page, "a plan of other settings is no plan of this run"


def test_a_plan_of_a_run_that_may_end_early_is_an_upper_bound(dwf: Dwf) -> None:
    early = words((*QUICK, "train.patience=2", "train.select='best_ra'"))
    assert "upper bounds" not in dwf("plan", "pgd-at-digits", *words(QUICK)).out
    said = dwf("plan", "pgd-at-digits", *early)
    assert said.code == 0, said.err
    assert "These are upper bounds: train.patience = 2 may end any phase before its last round." in " ".join(said.out.split())


@pytest.mark.parametrize(("width", "bound"), [(2, "launches"), (512, "operations")])
def test_a_gpu_is_as_slow_as_its_launches_where_a_net_is_narrow(width: int, bound: str) -> None:
    steps = [Work(flops=width * width * 1e9, products=100), Work(flops=0.0, products=100)]
    by = {"launches": 200 * LAUNCH, "operations": width * width * 1e9 / (PEAK["H100"] * SHARE) + 100 * LAUNCH}
    assert elsewhere(steps)["H100"] == pytest.approx(by[bound])
    assert by[bound] == max(by.values())


def test_an_average_is_planned_for(tmp_path: Path) -> None:
    memory = [plan(read("pgd-at-digits", (*QUICK, *more)), device="cpu", budget=0.1).phases[0].memory for more in ((), AVERAGE)]
    weights = sum(tensor.nbytes for tensor in load_weights(_trained(tmp_path)).values())
    assert weights <= memory[1] - memory[0] <= weights + 100, "and what the model's first layer knows of the data"


def _trained(folder: Path) -> Path:
    train(read("plain-digits", (*QUICK, "method.recipe.epochs=1")), folder, device="cpu")
    return folder / "model.safetensors"


def test_a_plan_changes_nothing_about_the_run(tmp_path: Path) -> None:
    run = read("fgsm-at-digits", QUICK)
    train(run, tmp_path / "without", device="cpu")
    plan(run, tmp_path / "with", device="cpu", budget=0.1)
    train(run, tmp_path / "with", device="cpu")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("without", "with"))
    assert first == second


def test_every_phase_of_the_paper_stands_in_the_plan(tmp_path: Path) -> None:
    run = read("dwf-digits", ["data.limit=300", "method.backbone={kind='resnet', depth=10, width=2}"])
    found = plan(run, device="cpu", budget=0.1)
    assert [phase.name for phase in found.phases][:2] == ["benign-1", "fgsm-1"]
    assert found.phases[-1].name == "joint"
    cost = {phase.kind: phase.flops / phase.images for phase in found.phases}
    assert cost["benign"] < cost["fgsm"] < cost["pgd"] < cost["joint"]
    assert found.flops == sum(phase.flops for phase in found.phases)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_trained_cannot_be_planned(refused: Callable[..., str]) -> None:
    assert "neither a preset" in refused("plan", "nothing")
    assert "use fewer" in refused("plan", "pgd-at-digits", "--set", "data.limit=200", "--set", "method.recipe.parts=9")
