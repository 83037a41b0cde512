"""The loop: rounds, selection, the NaN guard, resuming, and what it hands to a phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy_phases import always, go, net, phase, plainly, scripted

from dwf.core import journal
from dwf.core.errors import Refused
from dwf.training import loop
from dwf.training.checkpoint import Store, load_weights
from dwf.training.mover import Mover
from dwf.training.optim import Constant, Sgd
from dwf.training.plan import Batches, Group, Learner, Phase, Update


def records(folder: Path, event: str) -> list[dict[str, Any]]:
    return [record for record in journal.read(folder / "train.jsonl") if record["event"] == event]


def test_every_round_is_journalled_with_its_means(tmp_path: Path) -> None:
    def logging(model: nn.Module, batches: Batches) -> Iterator[Update]:
        for number, batch in enumerate(batches):
            value = torch.tensor(float(number))
            log = {"number": value, "odd": value} if number % 2 else {"number": value}
            yield Update(F.cross_entropy(model(batch.x), batch.y), log=log)

    go(tmp_path, [phase(net(), logging)])
    (began,) = records(tmp_path, "phase")
    assert began == {"event": "phase", "phase": "toy", "index": 0, "phases": 1, "rounds": 3, "parameters": 18}
    rounds = records(tmp_path, "round")
    assert [r["round"] for r in rounds] == [0, 1, 2]
    assert all(r["images"] == 20 for r in rounds)
    assert all(r["number"] == 1.5 for r in rounds)
    assert all(r["odd"] == 2 for r in rounds), "a mean over the updates that say it, as of one learner among two"
    assert rounds[-1]["loss"] < rounds[0]["loss"]
    assert rounds[0]["validation"] == {"sa": 0.5, "fgsm": 0.5, "ra": 0.5, "n": 1}


def _yielding_nan(at_round: int, at_step: int) -> Any:
    rounds = iter(range(1, 99))

    def sick(model: nn.Module, batches: Batches) -> Iterator[Update]:
        number = next(rounds)
        for step, batch in enumerate(batches, 1):
            loss = F.cross_entropy(model(batch.x), batch.y)
            yield Update(loss * float("nan") if (number, step) == (at_round, at_step) else loss)

    return sick


def test_a_loss_that_is_no_number_is_refused_with_phase_step_round_and_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refusal:
        go(tmp_path, [phase(net(), _yielding_nan(3, 2))])
    last = tmp_path / "state" / "000001"
    assert str(refusal.value) == (
        f"the loss of phase 'toy' stopped being a number at step 2 of round 3; the last good checkpoint is {last};"
        " lower the learning rate or set train.clip"
    )
    kept = Store(tmp_path).current()
    assert kept is not None
    assert all(tensor.isfinite().all() for tensor in kept.weights.values())


def test_a_first_round_that_is_no_number_has_no_checkpoint_to_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="at step 1 of round 1; the last good checkpoint is none yet; lower the learning rate"):
        go(tmp_path, [phase(net(), _yielding_nan(1, 1))])
    assert Store(tmp_path).current() is None


@pytest.mark.parametrize("stop", [None, 2, 4])
def test_best_val_keeps_the_best_rounds_weights(stop: int | None, tmp_path: Path) -> None:
    scores, at_round, calls = [0.1, 0.3, 0.9, 0.9, 0.2], [], 0

    def validate(model: nn.Module) -> Mapping[str, float]:
        nonlocal calls
        calls += 1
        if calls - 1 == stop:
            raise InterruptedError
        at_round.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"sa": scores[len(at_round) - 1], "fgsm": 0.0, "ra": 0.05, "n": 1}

    model = net()
    if stop is not None:
        with pytest.raises(InterruptedError):
            go(tmp_path, [phase(model, rounds=5)], validate=validate, select="best_val")
        model = net(seed=5)
    go(tmp_path, [phase(model, rounds=5)], validate=validate, select="best_val")
    stored = load_weights(tmp_path / "phases" / "toy" / "model.safetensors")
    for name, tensor in at_round[2].items():
        assert torch.equal(stored[name], tensor)
        assert torch.equal(model.state_dict()[name], tensor)
    ended = Store(tmp_path).finished("toy")
    assert ended is not None
    assert (ended.best_round, ended.best) == (2, pytest.approx(0.95))


def test_last_keeps_the_last_rounds_weights_whatever_their_score(tmp_path: Path) -> None:
    model = net()
    go(tmp_path, [phase(model)], validate=scripted(0.9, 0.5, 0.1))
    saved = Store(tmp_path).current()
    assert saved is not None
    assert saved.best == {}
    stored = load_weights(tmp_path / "phases" / "toy" / "model.safetensors")
    assert all(torch.equal(stored[name], tensor) for name, tensor in saved.weights.items())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_autocast_is_open_for_the_phase_and_closed_for_everybody_else(
    precision: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside: list[bool] = []
    outside: list[bool] = []
    take = Mover.take

    def phase_round(model: nn.Module, batches: Batches) -> Iterator[Update]:
        for batch in batches:
            inside.append(torch.is_autocast_enabled("cpu"))
            out = model(batch.x)
            assert out.dtype is precision
            yield Update(F.cross_entropy(out.float(), batch.y))

    def noting(mover: Mover, update: Update, progress: float) -> bool:
        outside.append(torch.is_autocast_enabled("cpu"))
        stepped = take(mover, update, progress)
        outside.append(torch.is_autocast_enabled("cpu"))
        return stepped

    def validate(model: nn.Module) -> Mapping[str, float]:
        outside.append(torch.is_autocast_enabled("cpu"))
        return always(model)

    monkeypatch.setattr(Mover, "take", noting)
    listener = lambda record: outside.append(torch.is_autocast_enabled("cpu"))  # noqa: E731
    go(tmp_path, [phase(net(), phase_round)], validate=validate, listeners=[listener], precision=precision)
    assert len(inside) == 12
    assert set(inside) == {precision is torch.bfloat16}
    assert len(outside) >= 30
    assert not any(outside)


def test_under_autocast_each_forward_uses_the_present_weights(tmp_path: Path) -> None:
    shown: list[Tensor] = []

    def watching(model: nn.Module, batches: Batches) -> Iterator[Update]:
        probe = torch.ones(1, 1, 2, 4)
        for batch in batches:
            logits = model(probe).detach().float()
            weight, bias = (p.detach().bfloat16() for p in model.parameters())
            shown.append((logits - F.linear(probe.flatten(1).bfloat16(), weight, bias).float()).abs().max())
            yield Update(F.cross_entropy(model(batch.x).float(), batch.y))

    go(tmp_path, [phase(net(), watching, rounds=2)], precision=torch.bfloat16)
    assert len(shown) == 8
    assert max(shown) < 0.02


def test_a_resumed_loop_cuts_the_journal_to_its_checkpoint(tmp_path: Path) -> None:
    def stop(record: Mapping[str, Any]) -> None:
        if record["event"] == "round" and record["round"] == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        go(tmp_path, [phase(net())], listeners=[stop])
    assert [r["round"] for r in records(tmp_path, "round")] == [0, 1], "written, though its checkpoint was not"
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"event": "rou')
    go(tmp_path, [phase(net(seed=9))])
    assert [r["round"] for r in records(tmp_path, "round")] == [0, 1, 2]
    assert len(records(tmp_path, "phase")) == 1


def test_finished_phases_are_not_trained_again(tmp_path: Path) -> None:
    first, second = net(0), net(1)
    go(tmp_path, [phase(first, name="a"), phase(second, name="b")])
    kept = [{n: t.clone() for n, t in model.state_dict().items()} for model in (first, second)]
    again = [net(2), net(3)]

    def never(model: nn.Module, batches: Batches) -> Iterator[Update]:
        raise AssertionError("trained again")

    go(tmp_path, [phase(model, never, name=name) for model, name in zip(again, "ab", strict=True)])
    for model, expected in zip(again, kept, strict=True):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_frozen_parts_stay_and_come_back_trainable(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    held, free = nn.ModuleList([model[1], model[2]]), model[3]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learner = Learner([Group(list(free.parameters()))], Sgd(), Constant())
    go(tmp_path, [Phase("toy", model, 2, 5, {"all": learner}, plainly, frozen=(held,))])
    after = model.state_dict()
    assert [name for name in after if not torch.equal(after[name], before[name])] == ["3.weight", "3.bias"]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_forgotten_parameter_is_the_methods_fault_and_found_at_once(tmp_path: Path) -> None:
    model = net()
    learner = Learner([Group([next(model.parameters())])], Sgd(), Constant())
    with pytest.raises(AssertionError, match="phase toy: learners and trainable parameters differ"):
        go(tmp_path, [Phase("toy", model, 1, 5, {"all": learner}, plainly)])


def test_a_shared_parameter_is_the_methods_fault_and_found_at_once(tmp_path: Path) -> None:
    model = net()
    learners = {name: Learner([Group(list(model.parameters()))], Sgd(), Constant()) for name in "ab"}
    with pytest.raises(AssertionError, match="phase toy: two learners share a parameter"):
        go(tmp_path, [Phase("toy", model, 1, 5, learners, plainly)])


def test_two_learners_step_in_turn_and_both_are_resumed(tmp_path: Path) -> None:
    def alternating(model: nn.Module, batches: Batches) -> Iterator[Update]:
        for batch in batches:
            for learner in ("weight", "bias"):
                yield Update(F.cross_entropy(model(batch.x), batch.y), learner)

    def made(folder: Path, *, interrupted: bool) -> dict[str, Tensor]:
        def phases(model: nn.Module) -> list[Phase]:
            learners = {n.split(".")[1]: Learner([Group([p])], Sgd(), Constant()) for n, p in model.named_parameters()}
            return [Phase("toy", model, 3, 5, learners, alternating)]

        if interrupted:
            with pytest.raises(StopIteration):
                go(folder, phases(net()), validate=scripted(0.5))
        model = net()
        go(folder, phases(model))
        return model.state_dict()

    whole, cut = made(tmp_path / "whole", interrupted=False), made(tmp_path / "cut", interrupted=True)
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())


def test_advance_says_when_the_round_is_over() -> None:
    assert loop.advance(iter(()), torch.bfloat16, torch.device("cpu")) is None
    assert not torch.is_autocast_enabled("cpu")
