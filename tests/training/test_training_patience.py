"""Ending a phase early: when, what is kept, and that journal, checkpoints and watchers tell the same story."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from toy_phases import always, go, net, phase

from dwf.core import journal
from dwf.core.errors import Refused
from dwf.progress import watching
from dwf.training.checkpoint import Store
from dwf.training.loop import Options

RA = (0.1, 0.3, 0.2, 0.3, 0.9, 0.9)
"""The second round's is not beaten by the next two; the fifth comes too late for a patience of 2."""


def scored(seen: list[dict[str, Tensor]], ra: Sequence[float] = RA, sa: float = 0.0) -> Callable[[nn.Module], Mapping[str, float]]:
    """A validation that remembers what it was shown, round by round."""

    def validate(model: nn.Module) -> Mapping[str, float]:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"sa": sa, "fgsm": 0.0, "ra": ra[len(seen) - 1], "n": 1}

    return validate


def records(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in journal.read(folder / "train.jsonl")]


@pytest.mark.parametrize(("patience", "rounds", "kept"), [(1, 3, 1), (2, 4, 1), (3, 6, 4), (9, 6, 4)])
def test_a_phase_ends_after_so_many_rounds_without_a_better_one(patience: int, rounds: int, kept: int, tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    model = net()
    go(tmp_path, [phase(model, rounds=6)], validate=scored(seen), select="best_ra", patience=patience)
    done = [r for r in records(tmp_path) if r["event"] == "round"]
    assert len(seen) == len(done) == rounds
    assert {r["rounds"] for r in done} == {6}, "what was planned stays what was planned"
    assert ["stopped" in r for r in done] == [False] * (rounds - 1) + [rounds < 6]
    assert ["best" in r for r in done] == [score > max([*RA[:i], -1.0]) for i, score in enumerate(RA[:rounds])]
    ended = Store(tmp_path).finished("toy")
    assert ended is not None
    assert (ended.rounds, ended.best_round, ended.best) == (rounds, kept, RA[kept])
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in seen[kept].items())


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_phase_ends_where_it_would_have_ended(stop: int, tmp_path: Path) -> None:
    def left(begun: int) -> Callable[[nn.Module], Mapping[str, float]]:
        seen: list[dict[str, Tensor]] = [{}] * begun
        inner = scored(seen)

        def validate(model: nn.Module) -> Mapping[str, float]:
            if begun == 0 and len(seen) == stop:
                raise InterruptedError
            return inner(model)

        return validate

    whole, again = net(), net(seed=4)
    go(tmp_path / "whole", [phase(whole, rounds=6)], validate=scored([]), select="best_ra", patience=2)
    with pytest.raises(InterruptedError):
        go(tmp_path / "cut", [phase(net(), rounds=6)], validate=left(0), select="best_ra", patience=2)
    go(tmp_path / "cut", [phase(again, rounds=6)], validate=left(stop), select="best_ra", patience=2)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_a_phase_killed_between_its_early_end_and_its_files_learns_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", killed)
        with pytest.raises(InterruptedError):
            go(tmp_path, [phase(net(), rounds=6)], validate=scored([]), select="best_ra", patience=2)
    before = records(tmp_path)
    go(tmp_path, [phase(net(), rounds=6)], validate=scored([], ra=()), select="best_ra", patience=2)
    assert records(tmp_path) == before
    ended = Store(tmp_path).finished("toy")
    assert ended is not None
    assert ended.rounds == 4


def test_the_next_phase_has_a_patience_of_its_own(tmp_path: Path) -> None:
    phases = [phase(net(), name="a", rounds=6), phase(net(1), name="b", rounds=3)]
    go(tmp_path, phases, validate=scored([], ra=(0.9, 0.1, 0.1, 0.2, 0.3, 0.4)), select="best_ra", patience=2)
    assert [(r["phase"], r["round"]) for r in records(tmp_path) if r["event"] == "round"] == [
        *(("a", n) for n in range(3)),
        *(("b", n) for n in range(3)),
    ]


def test_a_phase_that_learns_clean_images_is_scored_by_them(tmp_path: Path) -> None:
    scores = iter([(0.5, 0.2), (0.6, 0.1), (0.7, 0.0)])

    def validate(model: nn.Module) -> Mapping[str, float]:
        sa, ra = next(scores)
        return {"sa": sa, "fgsm": 0.0, "ra": ra, "n": 1}

    go(tmp_path, [replace(phase(net()), goal="sa")], validate=validate, select="best_ra", patience=1)
    ended = Store(tmp_path).finished("toy")
    assert ended is not None
    assert (ended.rounds, ended.best_round, ended.best) == (3, 2, 0.7)


def test_patience_follows_what_is_selected_by(tmp_path: Path) -> None:
    scores = iter([(0.5, 0.2), (0.9, 0.1), (0.9, 0.15), (0.0, 0.0)])

    def validate(model: nn.Module) -> Mapping[str, float]:
        sa, ra = next(scores)
        return {"sa": sa, "fgsm": 0.0, "ra": ra, "n": 1}

    go(tmp_path, [phase(net(), rounds=4)], validate=validate, select="best_val", patience=2)
    ended = Store(tmp_path).finished("toy")
    assert ended is not None
    assert (ended.rounds, ended.best_round) == (4, 2)


def test_who_watches_is_told_that_a_phase_stopped_early(tmp_path: Path) -> None:
    said = StringIO()
    with watching(Console(file=said, width=200)) as listeners:
        go(tmp_path, [phase(net(), rounds=6)], validate=scored([]), select="best_ra", patience=2, listeners=listeners)
    (last,) = [line for line in said.getvalue().splitlines() if "stopped early" in line]
    assert "round   4/6" in last


def test_patience_that_would_keep_the_worst_is_refused() -> None:
    with pytest.raises(Refused) as refusal:
        Options.read({"patience": 3})
    assert "'train.patience' is 3 and 'train.select' is 'last'" in str(refusal.value)
    assert "set 'train.select' to 'best_ra' or 'best_val'" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_without_patience_nothing_ends_early(tmp_path: Path) -> None:
    go(tmp_path, [phase(net(), rounds=5)], validate=always, select="best_ra")
    assert len([r for r in records(tmp_path) if r["event"] == "round"]) == 5
