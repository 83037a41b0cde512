"""Phases that were learnt elsewhere: by a process of their own, or in another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy_phases import always, images, net, phase

from dwf.core import journal
from dwf.core.journal import Journal, Listener
from dwf.data import Feed
from dwf.training.checkpoint import Store, weights_of
from dwf.training.loop import Harness, Options, train
from dwf.training.plan import Phase
from dwf.training.reuse import Shelf


class Stopped(Exception):
    """The plug was pulled."""


def phases() -> list[Phase]:
    """Two that need nothing of each other."""
    return [phase(net(0), name="a", rounds=2), phase(net(1), name="b", rounds=2)]


def go(
    folder: Path, *, aside: str | None = None, shelf: Shelf | None = None, listeners: tuple[Listener, ...] = ()
) -> list[dict[str, Any]]:
    """Train both, or what is left; with `aside` that phase alone, in a place of its own. Returns the weights as lists."""
    place = folder / "aside" / aside if aside else None
    both, store = phases(), Store(folder, place)
    keep = store.journal_bytes([] if aside else ["a", "b"])
    written = Journal((place or folder) / "train.jsonl", listeners, keep_bytes=keep)
    try:
        harness = Harness(store, _feed, always, written, Options(), torch.float32, 1, shelf or Shelf())
        train(both, harness, None if aside is None else [aside])
    finally:
        written.close()
    return [{name: tensor.tolist() for name, tensor in weights_of(one.subject).items()} for one in both]


def _feed(one: Phase) -> Feed:
    return Feed(images(), one.batch, 7, 0, False)


def records(folder: Path) -> list[dict[str, Any]]:
    """The journal without its times."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in journal.read(folder / "train.jsonl")]


def test_a_phase_that_learnt_aside_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    expected = go(tmp_path / "whole")
    first, _ = go(tmp_path / "parts", aside="b")
    assert first == {name: tensor.tolist() for name, tensor in weights_of(net(0)).items()}, "the other is left alone"
    assert Store(tmp_path / "parts").finished("a") is None
    assert not (tmp_path / "parts" / "train.jsonl").exists()
    assert go(tmp_path / "parts") == expected
    assert records(tmp_path / "parts") == records(tmp_path / "whole"), "in the order of the phases, each once"
    assert go(tmp_path / "parts") == expected
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


@pytest.mark.parametrize("after", range(1, 8))
def test_records_are_taken_over_once_whenever_the_plug_is_pulled(after: int, tmp_path: Path) -> None:
    go(tmp_path / "whole")
    for name in ("a", "b"):
        go(tmp_path / "parts", aside=name)
    seen = 0

    def pull(record: object) -> None:
        nonlocal seen
        seen += 1
        if seen == after:
            raise Stopped

    if after <= len(records(tmp_path / "whole")):
        with pytest.raises(Stopped):
            go(tmp_path / "parts", listeners=(pull,))
    go(tmp_path / "parts")
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def shelf(folder: Path, **circumstances: Any) -> Shelf:
    return Shelf({"seed": 1, **circumstances}, {"rate": 0.1}, folder)


def test_another_run_takes_over_what_the_same_decided(tmp_path: Path) -> None:
    first = go(tmp_path / "one", shelf=shelf(tmp_path))
    assert go(tmp_path / "two", shelf=shelf(tmp_path)) == first
    found = records(tmp_path / "two")
    assert [record.pop("reused_from") for record in found] == ["one/phases/a"] * 3 + ["one/phases/b"] * 3
    assert found == records(tmp_path / "one")
    go(tmp_path / "three", shelf=shelf(tmp_path))
    assert {r["reused_from"].partition("/")[0] for r in records(tmp_path / "three")} == {"one"}, "whose it was first"


@pytest.mark.parametrize("other", [{"seed": 2}, {"code": "newer"}])
def test_what_something_else_decided_is_learnt_again(other: dict[str, Any], tmp_path: Path) -> None:
    go(tmp_path / "one", shelf=shelf(tmp_path))
    go(tmp_path / "two", shelf=shelf(tmp_path, **other))
    assert not any("reused_from" in record for record in records(tmp_path / "two"))


def pulled_in_the_second_round(record: Any) -> None:
    """The checkpoint of the first is stored by then."""
    if record["event"] == "round" and record["round"] == 1:
        raise Stopped


def test_a_phase_that_stands_in_the_middle_goes_on_by_itself(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        go(tmp_path / "two", shelf=shelf(tmp_path), listeners=(pulled_in_the_second_round,))
    expected = go(tmp_path / "one", shelf=shelf(tmp_path))
    assert go(tmp_path / "two", shelf=shelf(tmp_path)) == expected
    assert {r["phase"] for r in records(tmp_path / "two") if "reused_from" in r} == {"b"}


@pytest.mark.parametrize(("code", "taken"), [("older", {"a", "b"}), ("newer", {"b"})])
def test_a_phase_that_began_under_other_code_is_nobodys_twin(code: str, taken: set[str], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        go(tmp_path / "one", shelf=shelf(tmp_path, code="older"), listeners=(pulled_in_the_second_round,))
    go(tmp_path / "one", shelf=shelf(tmp_path, code=code))
    go(tmp_path / "two", shelf=shelf(tmp_path, code=code))
    assert {r["phase"] for r in records(tmp_path / "two") if "reused_from" in r} == taken
