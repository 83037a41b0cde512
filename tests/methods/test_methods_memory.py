"""`train.memory`: each phase of a real run finds how to stay below, tells it, keeps to it when it goes on, or is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_methods import tiny

from dwf.core.errors import Refused
from dwf.core.settings import size, sized
from dwf.core.types import Images
from dwf.data import Data, Digits, specify
from dwf.evaluation.validation import Validation
from dwf.methods import METHODS, Dwf
from dwf.models import ResNet
from dwf.run import Run, RunFolder
from dwf.training.loop import Options
from dwf.training.memory import Measures
from dwf.training.optim import Recipe
from dwf.verbs import plan, train
from dwf.verbs.fitting import measures

GIB = 2**30
WIDE = Dwf(
    benign=1,
    fgsm=1,
    pgd=1,
    backbone=ResNet(depth=10, width=8),
    pgd_steps=(1,),
    experts=Recipe(epochs=1, batch=512),
    joint=Recipe(epochs=1, batch=512),
)
"""Activations of a step take a few hundred MiB, much more than weights and gradients."""


@pytest.fixture(autouse=True)
def _a_process_that_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["dwf.verbs.fitting"], "held", lambda: 512 * 2**20)


def run(cap: int | None, method: Any = WIDE, **options: Any) -> Run:
    return Run(
        name="capped",
        data=Data(source=Digits(size=8), limit=700),
        method=method,
        train=Options(memory=cap, precision="fp32", compile="never", **options),
        validation=Validation(samples=20),
    )


@pytest.fixture(scope="module")
def images() -> Images:
    return Digits(size=8)("train")


def found(cap: int | None, images: Images, method: Any = WIDE, **options: Any) -> dict[str, Measures]:
    return measures(run(cap, method, **options), images, specify(images), torch.float32, None)


def test_without_a_cap_nothing_is_counted(images: Images) -> None:
    assert found(None, images) == {}


def test_a_large_cap_changes_nothing_and_a_small_one_as_little_as_will_do(images: Images) -> None:
    free = found(64 * GIB, images)
    assert set(free) == {"benign-1", "fgsm-1", "pgd-1", "joint"}
    assert {(m.thrifty, m.recompute, m.parts) for m in free.values()} == {(False, "never", 1)}
    assert free["joint"].expected > free["pgd-1"].expected, "three experts and the gate keep more than one"
    whole = free["joint"].expected
    less = found(whole - 1, images)
    assert less["joint"].thrifty
    assert (less["joint"].parts, less["pgd-1"].thrifty) == (1, False), "each phase for itself"
    assert less["joint"].expected < whole


def test_what_cannot_fit_is_refused_with_what_would(images: Images) -> None:
    with pytest.raises(Refused, match=r"'train.memory' is 64 MiB, but phase '\S+' takes at least .*; allow that much") as told:
        found(64 * 2**20, images)
    assert "parts" in str(told.value)


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_can_be_counted(kind: str, images: Images) -> None:
    method = tiny(kind)
    counted = found(64 * GIB, images, method)
    assert counted
    assert all(each.expected > 2**20 and each.parts == 1 for each in counted.values())


def test_averages_and_best_rounds_are_counted(images: Images) -> None:
    heavy = WIDE.model_copy(update={"experts": Recipe(epochs=1, batch=2), "joint": Recipe(epochs=1, batch=2)})
    bare, average, best, both = (
        found(64 * GIB, images, heavy, **options)["joint"].expected
        for options in ({}, {"average": 0.9}, {"select": "best_ra"}, {"average": 0.9, "select": "best_ra"})
    )
    assert bare < best < average < both
    assert both - average == pytest.approx(best - bare, rel=0.01)


def test_pieces_of_a_batch_leave_gradients_behind(images: Images) -> None:
    whole, pieces = (found(64 * GIB, images, WIDE, accumulate=parts)["joint"].expected for parts in (1, 2))
    halves = WIDE.model_copy(update={"joint": Recipe(epochs=1, batch=256)})
    assert pieces < whole
    assert pieces > found(64 * GIB, images, halves)["joint"].expected


def test_a_warm_expert_with_another_batch_is_counted_by_itself(images: Images) -> None:
    large = Recipe(epochs=1, batch=512)
    warm = WIDE.model_copy(update={"pgd": 2, "experts": Recipe(epochs=1, batch=8), "warm_start": "kind", "warm": large})
    expected = {name: each.expected for name, each in found(64 * GIB, images, warm).items()}
    assert expected["pgd-2"] > expected["pgd-1"]


def test_generated_code_takes_memory(images: Images) -> None:
    runs = [run(64 * GIB), run(64 * GIB)]
    runs[1] = runs[1].model_copy(update={"train": runs[1].train.model_copy(update={"compile": "auto"})})
    bare, compiled = (measures(each, images, specify(images), torch.float32, None)["joint"].expected for each in runs)
    assert compiled - bare == 256 * 2**20


def test_another_run_in_the_folder_is_refused_as_ever(tmp_path: Path) -> None:
    train(run(64 * GIB, tiny("plain")), tmp_path / "a", device="cpu")
    with pytest.raises(Refused, match="other settings"):
        train(run(64 * GIB), tmp_path / "a", device="cpu", resume=True)


def test_a_capped_run_says_what_it_does_and_goes_on_as_it_began(tmp_path: Path, images: Images) -> None:
    whole = found(64 * GIB, images)["joint"].expected
    capped = run(whole - 1)
    train(capped, tmp_path / "a", device="cpu")
    stored = json.loads((tmp_path / "a/run.json").read_text())["memory"]
    assert stored["joint"]["thrifty"]
    told = [json.loads(line) for line in (tmp_path / "a/train.jsonl").read_text().splitlines()]
    assert {each["phase"]: each["memory"] for each in told if each["event"] == "phase"} == stored
    again = measures(capped, images, specify(images), torch.float32, RunFolder(tmp_path / "a"))
    assert dict(again) == {name: Measures(**each) for name, each in stored.items()}


def test_a_plan_knows_the_cap(images: Images) -> None:
    whole = found(64 * GIB, images)["joint"].expected
    costs = {cost.name: cost for cost in plan(run(whole - 1), device="cpu", budget=0.01).phases}
    assert costs["joint"].measures is not None
    assert costs["joint"].measures.thrifty
    assert {cost.measures for cost in plan(run(None), device="cpu", budget=0.01).phases} == {None}


@pytest.mark.parametrize(
    ("given", "bytes_"), [("4GiB", 4 * GIB), ("800 MB", 800_000_000), ("1.5gib", 3 * GIB // 2), (2**21, 2**21), ("64MiB", 2**26)]
)
def test_sizes_are_read(given: object, bytes_: int) -> None:
    assert size(given) == bytes_


@pytest.mark.parametrize("given", ["", "much", "4 bytes", "-4GiB", "1e400GiB", "12", True, "nan", "0GiB", "4GiB8"])
def test_what_is_no_size_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="give a size"):
        size(given)


def test_sizes_in_words() -> None:
    assert [sized(count) for count in (GIB, 3 * GIB // 2, 2**20 + 1)] == ["1.0 GiB", "1.5 GiB", "2 MiB"]
