"""What pages of the documentation say of a sweep: cost in operations, what stays right under everything, and the front."""

from __future__ import annotations

import shutil
from pathlib import Path

import ablation
import cost
import numpy as np
import pytest
import recipe
from budget import budget
from cells import absent, aligned, cell, cells
from hypothesis import given
from hypothesis import strategies as st
from tiny_sweeps import JUDGING
from tiny_sweeps import ablation as tiny

from dwf.cells import cells_of
from dwf.verbs import evaluate, plan, sweep

MOE = {"name": "moe", "set": ("protocol.steps=2", "protocol.apgd_steps=2", "protocol.temperatures=[[1, 10]]")}
points = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cells, judged by two protocols."""
    out = tmp_path_factory.mktemp("pages") / "out"
    usual = tiny()
    small = usual.model_copy(update={"cells": usual.cells[:2], "protocols": (*usual.protocols, *tiny(protocols=(MOE,)).protocols)})
    assert sweep(small, out, device="cpu").failed == {}
    return out


def test_operations_are_those_of_the_plan(swept: Path) -> None:
    """Of the phases that another cell learnt, too."""
    for one in cells_of(tiny())[:2]:
        assert budget(swept / one.name)["tflop"] == pytest.approx(plan(one.run, device="cpu", budget=0.1).flops / 1e12)


def test_what_stays_right_does_so_under_every_protocol(swept: Path) -> None:
    first, second = cells(swept)
    assert [one.protocol for one in first.evaluated] == ["moe", "table3"]
    bits = []
    for one in first.evaluated:
        with np.load(swept / "dwf" / "eval" / f"{one.name}.npz") as stored:
            order = np.argsort(stored["index"])
            bits += [stored[name][order] for name in ("clean", *one.result.worst_case[0].attacks)]
    assert first.right.tolist() == np.logical_and.reduce(bits).tolist()
    assert first.clean.mean() == first.evaluated[0].result.clean.accuracy
    ours, theirs = aligned(first, second)
    assert (ours.tolist(), theirs.tolist()) == (first.right.tolist(), second.right.tolist())


def test_the_pages_name_every_cell(swept: Path, tmp_path: Path) -> None:
    found = cells(swept)
    for text in (ablation.rows(found), cost.tabulated(found)):
        assert all(f"| {cell.name} |" in text for cell in found)
    assert "of 3 |" in ablation.rows(found), "experts in effect, of so many"
    cost.drawn(found, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_what_has_not_run_is_named_and_left_out(swept: Path, tmp_path: Path) -> None:
    assert absent(swept) == ""
    out = shutil.copytree(swept, tmp_path / "out")
    shutil.rmtree(out / "rate")
    assert [one.name for one in cells(out)] == ["dwf"]
    assert absent(out) == "\nNot run yet: `rate`.\n"
    shutil.rmtree(out / "dwf")
    with pytest.raises(SystemExit, match="has been judged yet"):
        cells(out)


def test_cells_that_were_not_judged_alike_are_not_compared(swept: Path, tmp_path: Path) -> None:
    for words, change in {
        "has no evaluation 'moe-steps2": lambda out: [file.unlink() for file in (out / "rate/eval").glob("moe*.json")],
        "is no folder of a sweep": lambda out: (out / "sweep.json").unlink(),
    }.items():
        out = shutil.copytree(swept, tmp_path / words[:6])
        change(out)
        with pytest.raises(SystemExit, match=words):
            cells(out)
    first, second = cells(swept)
    with pytest.raises(SystemExit, match="only one of them has 'moe-"):
        aligned(first, second._replace(judged={name: one for name, one in second.judged.items() if name.startswith("table3")}))
    evaluate(swept / "dwf", "table3", overrides=[*JUDGING["set"], "protocol.eps=0.02"], samples=20, device="cpu")
    with pytest.raises(SystemExit, match="several threats or images"):
        cell(swept / "dwf")
    assert cells(swept)[0].judged.keys() == first.judged.keys(), "the sweep asked for these"


@given(points)
def test_nobody_beats_who_is_on_the_front(found: list[tuple[float, float]]) -> None:
    leads = cost.front(found)
    assert any(leads)
    for (c, w), on_front in zip(found, leads, strict=True):
        beaten = any(a <= c and b >= w and (a, b) != (c, w) for a, b in found)
        assert on_front is not beaten


def test_a_recipe_against_itself_and_another(swept: Path) -> None:
    first, second = cells(swept)
    same = recipe.duel([first, second], [first, second])
    assert (same["points"], same["points_by_seed"], same["interval_by_images"]) == (0, [0, 0], [0, 0])
    ours, theirs = aligned(first, second)
    assert recipe.duel([first], [second])["points"] == pytest.approx(100 * (ours.mean() - theirs.mean()))
    assert recipe.described([first, first])["deviation"] == 0
    assert recipe.described([first])["deviation"] is recipe.duel([first], [second])["interval_by_seeds"] is None
    with pytest.raises(SystemExit, match="1 runs against 2"):
        recipe.duel([first], [first, second])


def test_intervals_of_a_recipe_miss_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "RESAMPLES", 400)
    random = np.random.default_rng(1)
    missed = {"images": 0, "seeds": 0}
    for _ in range(200):
        each = random.normal(0.1, 1.0, (1, 100)).repeat(3, 0) + random.normal(0, 0.1, (3, 100))
        for name, bounds in {
            "images": recipe.by_images(each),
            "seeds": recipe.by_seeds(random.normal(0.1, 1, 3).tolist()),
        }.items():
            assert bounds is not None
            missed[name] += not bounds[0] <= 0.1 <= bounds[1]
    assert all(2 <= count <= 20 for count in missed.values()), missed
