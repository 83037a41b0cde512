"""What a round sees of an epoch: batches, parts, accumulation, choices, the schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_phases import go, images, net, phase, plainly

from dwf.core import journal
from dwf.training.mover import Mover
from dwf.training.optim import Cosine, Sgd
from dwf.training.plan import Batches, Group, Learner, Phase, Update


def records(folder: Path, event: str) -> list[dict[str, Any]]:
    return [record for record in journal.read(folder / "train.jsonl") if record["event"] == event]


def test_the_ragged_last_batch_is_dropped(tmp_path: Path) -> None:
    sizes: list[int] = []

    def watching(model: nn.Module, batches: Batches) -> Iterator[Update]:
        assert len(batches) == 3
        for batch in batches:
            sizes.append(len(batch.y))
            yield Update(F.cross_entropy(model(batch.x), batch.y))

    go(tmp_path, [phase(net(), watching, rounds=1, batch=7)], data=images(25))
    assert sizes == [7, 7, 7]
    assert records(tmp_path, "round")[0]["images"] == 21


def test_the_parts_of_an_epoch_together_cover_it(tmp_path: Path) -> None:
    drawn: list[list[int]] = []

    def watching(model: nn.Module, batches: Batches) -> Iterator[Update]:
        drawn.append([])
        for batch in batches:
            drawn[-1] += batch.noise.index.tolist()
            yield Update(F.cross_entropy(model(batch.x), batch.y))

    go(tmp_path, [phase(net(), watching, rounds=6, batch=2, parts=3)])
    assert [len(part) for part in drawn] == [6, 6, 8] * 2
    for epoch in (drawn[:3], drawn[3:]):
        assert sorted(chain.from_iterable(epoch)) == list(range(100, 120))
    assert [*chain.from_iterable(drawn[:3])] != [*chain.from_iterable(drawn[3:])], "another order in every epoch"


@pytest.mark.parametrize("pieces", [1, 5])
def test_the_learning_rate_follows_the_cosine_over_all_iterations(
    pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    take = Mover.take

    def noting(mover: Mover, update: Update, progress: float) -> bool:
        if stepped := take(mover, update, progress):
            rates.append(mover.learning_rate)
        return stepped

    monkeypatch.setattr(Mover, "take", noting)
    model = net()
    learner = Learner([Group(list(model.parameters()))], Sgd(learning_rate=1.0), Cosine())
    go(tmp_path, [Phase("toy", model, 5, 5, {"all": learner}, plainly)], accumulate=pieces)
    assert len(rates) == 20
    assert rates[0] == pytest.approx(1.0)
    assert rates == sorted(rates, reverse=True)
    assert rates == pytest.approx([Cosine()(number / 20) for number in range(20)])


def test_accumulation_cuts_each_batch_and_steps_once(tmp_path: Path) -> None:
    sizes: list[int] = []

    def watching(model: nn.Module, batches: Batches) -> Iterator[Update]:
        for batch in batches:
            sizes.append(len(batch.y))
            yield Update(F.cross_entropy(model(batch.x), batch.y))

    parted, whole = net(), net()
    go(tmp_path / "parted", [phase(parted, watching, batch=10)], accumulate=5)
    go(tmp_path / "whole", [phase(whole, batch=10)])
    assert sizes == [2] * 30
    assert records(tmp_path / "parted", "round")[0]["images"] == 20
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(tensor, parted.state_dict()[name], atol=1e-6)


@pytest.mark.parametrize(("options", "parts"), [({}, 1), ({"accumulate": 5}, 1), ({}, 2)])
def test_a_batch_knows_how_far_the_phase_is(options: dict[str, int], parts: int, tmp_path: Path) -> None:
    def drawn(folder: Path, stop: int | None = None) -> list[float]:
        seen: list[float] = []

        def watching(model: nn.Module, batches: Batches) -> Iterator[Update]:
            for batch in batches:
                seen.append(batch.progress)
                yield Update(F.cross_entropy(model(batch.x), batch.y))

        def pull(record: Mapping[str, Any]) -> None:
            if record["event"] == "round" and record["round"] == stop:
                raise InterruptedError

        toy = phase(net(), watching, rounds=3 * parts, batch=5, parts=parts)
        with pytest.raises(InterruptedError) if stop is not None else nullcontext():
            go(folder, [toy], listeners=[pull], **options)
        return seen

    pieces = options.get("accumulate", 1)
    assert drawn(tmp_path / "whole") == pytest.approx([number / 12 for number in range(12) for _ in range(pieces)])
    begun, left = drawn(tmp_path / "cut", stop=1), drawn(tmp_path / "cut")
    assert begun[: len(begun) // 2] + left == drawn(tmp_path / "again"), "the round that was cut off begins again"


def test_choices_for_a_batch_repeat_and_vary(tmp_path: Path) -> None:
    def drawn(folder: Path) -> list[tuple[float, float]]:
        seen: list[tuple[float, float]] = []

        def watching(model: nn.Module, batches: Batches) -> Iterator[Update]:
            for batch in batches:
                seen.append((batch.random.random(), float(batch.noise.uniform((1,)).sum())))
                yield Update(F.cross_entropy(model(batch.x), batch.y))

        go(folder, [phase(net(), watching)])
        return seen

    first = drawn(tmp_path / "a")
    assert drawn(tmp_path / "b") == first
    assert len({choice for choice, _ in first}) == len({noise for _, noise in first}) == 12
