from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dwf.core.errors import Refused
from dwf.core.result import DatasetEntry, ModelEntry, Result, from_json
from dwf.core.types import Images
from dwf.data import ordered
from dwf.evaluation import Table3, protocol
from dwf.evaluation.protocol import evaluate, file_name
from dwf.evaluation.tabulate import Subject
from dwf.models import Mixture

SMALL = Table3(eps=0.1, fgsm_eps=(0.05, 0.2), steps=(2, 3), final=5, restarts=2)


def subject(images: Images, split: str = "test") -> Subject:
    return Subject(
        run="toy",
        model=ModelEntry(method="dwf", settings={}, parameters=1, forward_passes=2),
        dataset=DatasetEntry(name=images.name, split=split, n=len(images), indices="all", sha256=images.sha256),
        classes=images.classes,
        device="cpu",
        versions=("0", "0"),
    )


def run(model: nn.Module, images: Images, folder: Path, size: int = 20, **options: object) -> Result:
    batches = list(ordered(images, size))
    return evaluate(model, SMALL, batches, subject(images), folder, precision=torch.float32, **options)  # type: ignore[arg-type]


def timeless(path: Path) -> object:
    data = json.loads(path.read_text())
    data["environment"].update(started="", seconds=0)
    for attack in data["attacks"]:
        attack["seconds"] = 0
    return data


def test_the_file_has_the_schema_to_the_letter(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    run(mixture, digits, tmp_path)
    data = json.loads((tmp_path / f"{file_name(SMALL)}.json").read_text())
    assert set(data) == {
        *("schema", "run", "protocol", "dataset", "model", "clean", "attacks", "worst_case", "flags", "routing"),
        *("per_class", "environment", "flag_tests", "facts", "certified"),
    }
    assert set(data["attacks"][0]) == {
        *("name", "kind", "norm", "eps", "steps", "restarts", "step_size", "space", "iterate", "settings", "accuracy", "ci95", "n"),
        *("seconds", "forwards", "backwards", "precision"),
    }
    assert set(data["dataset"]) == {"name", "split", "n", "indices", "sha256"}
    assert set(data["routing"]) == {"clean", "fgsm", "pgd"}
    assert set(data["routing"]["clean"]) == {"weights", "entropy", "load", "variation"}
    assert set(data["per_class"][0]) == {"class", "clean", "worst_case"}
    assert set(data["environment"]) == {
        "dwf",
        "code",
        "torch",
        "device",
        "threads",
        "precision",
        "compiled",
        "seed",
        "started",
        "seconds",
    }
    assert (data["worst_case"][0]["norm"], data["worst_case"][0]["eps"]) == ("linf", 0.1)


def test_numbers_follow_from_the_stored_bits(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    result = run(mixture, digits, tmp_path)
    with np.load(tmp_path / f"{file_name(SMALL)}.npz") as stored:
        bits = {name: stored[name] for name in stored.files}
    assert sorted(bits["index"].tolist()) == sorted(digits.index.tolist())
    assert result.clean.accuracy == bits["clean"].mean()
    for attack in result.attacks:
        assert attack.accuracy == bits[attack.name].mean()
        assert attack.ci95[0] <= attack.accuracy <= attack.ci95[1]
    inside = [a.name for a in result.attacks if a.eps <= 0.1]
    assert result.worst_case[0].accuracy == np.logical_and.reduce([bits[name] for name in inside]).mean()
    assert result.worst_case[0].accuracy < result.clean.accuracy


def test_costs_are_counted_once(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    costs = {attack.name: attack for attack in run(mixture, digits, tmp_path).attacks}
    assert costs["fgsm-0.05"].backwards == 1
    assert costs["fgsm-0.2"].backwards == 0, "the second radius shares the gradient"
    assert (costs["pgd-2"].backwards, costs["pgd-3"].backwards) == (2, 1), "a longer row pays for its further steps only"
    assert costs["pgd-5-eot1"].backwards == 0
    assert 2 <= costs["pgd-5x2"].backwards <= 2 + 5


def test_an_interrupted_evaluation_ends_the_same(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(mixture, digits, whole)

    def pull_the_plug(done: int, total: int, accuracy: Mapping[str, float]) -> None:
        assert 0 <= accuracy["clean"] <= 1
        if done == 2:  # in the middle of the first batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(mixture, digits, broken, watch=pull_the_plug)
    name = file_name(SMALL)
    assert not (broken / f"{name}.json").exists()
    finished = sorted(path.name for path in (broken / f".{name}.parts").iterdir())
    assert finished == ["000000-000.npz", "000000-001.npz", "identity.json"]
    run(mixture, digits, broken, resume=True)
    assert timeless(whole / f"{name}.json") == timeless(broken / f"{name}.json")
    for suffix in (".npz", ".images.npz"):
        assert (whole / name).with_name(name + suffix).read_bytes() == (broken / name).with_name(name + suffix).read_bytes()
    assert not (broken / f".{name}.parts").exists()


def test_parts_of_other_weights_are_not_used(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    def stop(done: int, total: int, accuracy: Mapping[str, float]) -> None:
        raise KeyboardInterrupt

    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(256, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.flatten(1) * 0) + torch.arange(10.0)

    with pytest.raises(KeyboardInterrupt):
        run(mixture, digits, tmp_path, watch=stop)
    result = run(Blind(), digits, tmp_path, resume=True)
    assert result.clean.accuracy == pytest.approx(float((digits.labels == 9).float().mean()), abs=1e-6)
    assert result.routing is None


def test_two_rows_of_one_name_are_refused(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    twins = Table3(eps=0.1, fgsm_eps=(0.05, 0.05), steps=(2,), final=3, restarts=1)
    with pytest.raises(Refused, match=r"'table3' has two rows called 'fgsm-0.05'; give radii and temperatures that differ"):
        evaluate(mixture, twins, list(ordered(digits, 20)), subject(digits), tmp_path, precision=torch.float32)
    assert not list(tmp_path.iterdir())


def test_what_other_code_found_is_neither_kept_nor_gone_on_with(
    mixture: Mixture, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(mixture, digits, tmp_path).environment.code == protocol.sources(Path(protocol.__file__).parent.parent, protocol.CODE)
    monkeypatch.setattr(protocol, "sources", lambda root, parts: "of another day")
    with pytest.raises(Refused, match="by other code or on another device; move it away or delete it first"):
        run(mixture, digits, tmp_path, resume=True)


def test_an_evaluation_is_not_overwritten(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    first = run(mixture, digits, tmp_path)
    with pytest.raises(
        Refused, match="is there already, made with the same settings; delete it to evaluate again, or add --resume"
    ):
        run(mixture, digits, tmp_path)
    assert run(mixture, digits, tmp_path, resume=True) == first
    with pytest.raises(Refused, match="other settings, images or weights; move it away or delete it first"):
        run(mixture, digits, tmp_path, seed=5)


def test_noise_does_not_depend_on_the_batch(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    run(mixture, digits, tmp_path / "a", size=20)
    run(mixture, digits, tmp_path / "b", size=15)
    name = file_name(SMALL)
    with np.load(tmp_path / "a" / f"{name}.npz") as a, np.load(tmp_path / "b" / f"{name}.npz") as b:
        agreeing = [float((a[row] == b[row]).mean()) for row in a.files if a[row].dtype == bool]
    assert min(agreeing) > 0.95, "other batches may round differently, but start at the same points"


def test_a_random_model_is_flagged(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = mixture

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x) + torch.randn(len(x), 10) * 0.1

    assert "randomized" in {flag.code for flag in run(Noisy(), digits, tmp_path).flags}
    assert "randomized" not in {flag.code for flag in run(mixture, digits, tmp_path / "honest").flags}


def test_the_file_is_read_back_and_other_schemas_are_refused(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    result = run(mixture, digits, tmp_path)
    path = tmp_path / f"{file_name(SMALL)}.json"
    data = json.loads(path.read_text())
    assert from_json(data, where=path) == result
    with pytest.raises(Refused, match="has schema 99, this version reads 1; evaluate the run again"):
        from_json({**data, "schema": 99}, where=path)


def test_names_say_what_differs() -> None:
    assert file_name(Table3()) == "table3"
    assert file_name(Table3(eps=0.02)) == "table3-eps0.02"
    assert file_name(Table3(eps=0.02, restarts=1)) == "table3-eps0.02-restarts1"
