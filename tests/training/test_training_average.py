"""The moving average of the weights: what it is, that it is what a phase validates and keeps, and that resuming changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn
from toy_phases import always, go, net, phase, plainly

from dwf.core import journal
from dwf.training.average import Average
from dwf.training.checkpoint import Store, load_weights
from dwf.training.loop import Options
from dwf.training.optim import Constant, Sgd
from dwf.training.plan import Batches, Group, Learner, Phase, Update


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def normed() -> nn.Module:
    """A net with statistics and a counter."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_the_share_of_the_past_grows_from_a_tenth_to_what_is_asked_for() -> None:
    model = nn.Linear(1, 1, bias=False)
    average, expected = Average(model, 0.4), model.weight.item()
    for value, past in ((2.0, 1 / 10), (3.0, 2 / 11), (5.0, 3 / 12), (7.0, 4 / 13), (8.0, 5 / 14), (4.0, 0.4), (1.0, 0.4)):
        with torch.no_grad():
            model.weight.fill_(value)
        average.take()
        expected = past * expected + (1 - past) * value
        assert average.tensors["weight"].item() == pytest.approx(expected)


def test_statistics_are_averaged_and_counters_are_the_present_ones() -> None:
    model = normed()
    average = Average(model, 0.9)
    means = [model[2].running_mean.clone()]
    for _ in range(2):
        model(torch.rand(6, 1, 2, 4))
        means.append(model[2].running_mean.clone())
        average.take()
    first = 0.1 * means[0] + 0.9 * means[1]
    torch.testing.assert_close(average.tensors["2.running_mean"], 2 / 11 * first + 9 / 11 * means[2])
    assert int(average.tensors["2.num_batches_tracked"]) == 2


def test_showing_the_average_leaves_the_subject_as_it_was() -> None:
    model = normed()
    average = Average(model, 0.9)
    before = state(model)
    with torch.no_grad():
        model[1].weight += 1
    moved = state(model)
    with average.shown():
        assert same(model.state_dict(), before)
    assert same(model.state_dict(), moved)
    with Average(model, None).shown():
        assert same(model.state_dict(), moved)


def test_what_does_not_move_stays_bit_for_bit(tmp_path: Path) -> None:
    model = normed()
    before, free = state(model), model[3]
    held = nn.ModuleList([model[1], model[2]])
    learner = Learner([Group(list(free.parameters()))], Sgd(), Constant())
    go(tmp_path, [Phase("toy", model, 3, 5, {"all": learner}, plainly, frozen=(held,))], average=0.97)
    after = model.state_dict()
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["3.weight", "3.bias"]


def averaging(decay: float) -> tuple[Any, list[dict[str, Tensor]]]:
    """A round that keeps its own average of what it is shown, and the averages at the ends of rounds."""
    ends: list[dict[str, Tensor]] = []
    kept: list[Average] = []

    def watching(model: nn.Module, batches: Batches) -> Iterator[Update]:
        if not kept:
            kept.append(Average(model, decay))
        for batch in batches:
            yield Update(F.cross_entropy(model(batch.x), batch.y))
            kept[0].take()  # the loop asks for the next update after its step
        ends.append({name: tensor.clone() for name, tensor in kept[0].tensors.items()})

    return watching, ends


def test_the_average_is_validated_and_kept_and_training_goes_on_without_it(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def validate(model: nn.Module) -> Mapping[str, float]:
        seen.append(state(model))
        return always(model)

    watching, ends = averaging(0.8)
    model, plain = net(), net()
    go(tmp_path / "averaged", [phase(model, watching)], validate=validate, average=0.8)
    assert len(seen) == 3
    assert all(same(one, two) for one, two in zip(seen, ends, strict=True))
    assert same(model.state_dict(), ends[-1])
    assert same(load_weights(tmp_path / "averaged" / "phases" / "toy" / "model.safetensors"), ends[-1])

    go(tmp_path / "plain", [phase(plain)])
    last, ordinary = (Store(tmp_path / name).current() for name in ("averaged", "plain"))
    assert last is not None
    assert ordinary is not None
    assert same(last.weights, ordinary.weights), "the optimizer never sees the average"
    assert not same(last.weights, ends[-1])
    assert ordinary.average == {}
    assert losses(tmp_path / "averaged") == losses(tmp_path / "plain")


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in journal.read(folder / "train.jsonl") if record["event"] == "round"]


def test_the_best_rounds_average_is_kept(tmp_path: Path) -> None:
    scores = iter([0.1, 0.9, 0.2])
    watching, ends = averaging(0.8)
    model = net()
    go(
        tmp_path,
        [phase(model, watching)],
        validate=lambda _: {"sa": 0.0, "fgsm": 0.0, "ra": next(scores), "n": 1},
        average=0.8,
        select="best_ra",
    )
    assert same(model.state_dict(), ends[1])


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_resumed_average_equals_the_uninterrupted_one(stop: int, tmp_path: Path) -> None:
    whole, cut = normed(), normed()
    go(tmp_path / "whole", [phase(whole)], average=0.95)
    calls = 0

    def validate(model: nn.Module) -> Mapping[str, float]:
        nonlocal calls
        calls += 1
        if calls - 1 == stop:
            raise InterruptedError
        return always(model)

    with pytest.raises(InterruptedError):
        go(tmp_path / "cut", [phase(cut)], validate=validate, average=0.95)
    again = normed()
    go(tmp_path / "cut", [phase(again)], average=0.95)
    assert same(again.state_dict(), whole.state_dict())


def test_a_phase_killed_after_its_last_round_still_keeps_the_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, again = net(), net()
    go(tmp_path / "whole", [phase(whole)], average=0.95)

    def killed(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", killed)
        with pytest.raises(InterruptedError):
            go(tmp_path / "cut", [phase(net())], average=0.95)
    go(tmp_path / "cut", [phase(again)], average=0.95)
    assert same(again.state_dict(), whole.state_dict())


def test_parts_of_a_batch_count_as_one_step(tmp_path: Path) -> None:
    go(tmp_path, [phase(net(), batch=10)], accumulate=5, average=0.9)
    ended = Store(tmp_path).finished("toy")
    assert ended is not None
    assert ended.averaged == 3 * 2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_that_averages_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValidationError, match="average"):
        Options(average=share)
