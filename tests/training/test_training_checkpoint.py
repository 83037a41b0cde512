"""Nothing is lost, and nothing half-written is ever current."""

from __future__ import annotations

import errno
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.training import checkpoint as checkpoints
from dwf.training.checkpoint import Checkpoint, Counters, Store, install, load_weights, save_weights, weights_of

ONE = {"w": torch.tensor([1.0])}
TWO = {"w": torch.tensor([2.0])}


def saved(rounds: int, weights: dict[str, Tensor] = ONE, **more: Any) -> Checkpoint:
    return Checkpoint(Counters("joint", rounds, 10 * rounds, **more), weights, {}, {"all": {"0.momentum_buffer": weights["w"] * 3}})


def test_a_checkpoint_comes_back_as_it_went(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.current() is None
    assert store.current_counters() is None
    assert store.last_good() == "none yet"
    before = Checkpoint(Counters("joint", 3, 99, 0.5, 2), ONE, TWO, {"a": {"0.exp_avg": ONE["w"]}, "b": {"1.step": TWO["w"]}})
    store.save(before)
    after = store.current()
    assert after is not None
    assert after == before
    assert store.last_good() == str(tmp_path / "state" / "000000")


def test_the_highest_number_is_current_and_the_older_are_dropped(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for rounds in range(12):
        store.save(saved(rounds))
    assert [folder.name for folder in (tmp_path / "state").iterdir()] == ["000011"]
    leftover = tmp_path / "state" / "000003"  # as a kill between the rename and the removal leaves it
    leftover.mkdir()
    found = store.current()
    assert found is not None
    assert found.counters.rounds == 11
    store.save(saved(12))
    assert [folder.name for folder in (tmp_path / "state").iterdir()] == ["000012"]


@pytest.mark.parametrize("breaks", ["weights.safetensors", "best.safetensors", "optimizers.safetensors"])
def test_a_failure_while_writing_leaves_the_older_one_current(breaks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.save(saved(1))

    def failing(path: Path, weights: dict[str, Tensor]) -> None:
        if path.name == breaks:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_weights(path, weights)

    monkeypatch.setattr(checkpoints, "save_weights", failing)
    with pytest.raises(Refused, match=r"no space left on the device while writing .*000001; free some and run the command again"):
        store.save(saved(2, TWO))
    _still_the_first(store, tmp_path)


def test_a_failing_rename_leaves_the_older_one_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.save(saved(1))

    def failing(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dwf.core.files.os.rename", failing)
        with pytest.raises(KeyboardInterrupt):
            store.save(saved(2, TWO))
    _still_the_first(store, tmp_path)
    store.save(saved(2, TWO))
    found = store.current()
    assert found is not None
    assert found.counters.rounds == 2


def _still_the_first(store: Store, folder: Path) -> None:
    found = store.current()
    assert found is not None
    assert found.counters.rounds == 1
    assert found.weights["w"].item() == 1.0
    assert [path.name for path in (folder / "state").iterdir()] == ["000000"], "no leftovers"


def test_a_full_disc_is_one_sentence_and_not_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Refused, match="no space left on the device while writing"):
        save_weights(tmp_path / "model.safetensors", ONE)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_phase_is_kept_with_how_it_ended(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.finished("pgd-1") is None
    store.finish(Counters("pgd-1", 5, 70, 0.9, 3), TWO)
    assert store.finished("pgd-1") == Counters("pgd-1", 5, 70, 0.9, 3)
    assert store.weights("pgd-1")["w"].item() == 2.0
    assert json.loads((tmp_path / "phases" / "pgd-1" / "phase.json").read_text())["best_round"] == 3


def test_the_journal_belongs_to_the_newest_of_checkpoint_and_finished_phases(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.journal_bytes(["a", "joint"]) == 0
    store.finish(Counters("a", 1, 70), ONE)
    assert store.journal_bytes(["a", "joint"]) == 70
    store.save(saved(9))
    assert store.journal_bytes(["a", "joint"]) == 90


@pytest.mark.parametrize("content", [None, "", "[1]", '{"phase": "a"}', '{"phase": "a", "rounds": 1, "journal_bytes": 0, "x": 1}'])
def test_damaged_counters_are_one_sentence(content: str | None, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(saved(1))
    store.finish(Counters("a", 1, 70), ONE)
    damaged = {
        tmp_path / "state" / "000000" / "counters.json": store.current,
        tmp_path / "phases" / "a" / "phase.json": partial(store.finished, "a"),
    }
    for file, ask in damaged.items():
        file.unlink()
        if content is not None:
            file.write_text(content)
        with pytest.raises(Refused, match=re.escape(f"{file} is missing or damaged (")) as refusal:
            ask()
        assert re.search(r"\); remove that folder to (begin|train) its phase again$", str(refusal.value))
        assert "\n" not in str(refusal.value)


def test_weights_are_copies_on_the_cpu_in_plain_order() -> None:
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kept = weights_of(net)
    before = kept["weight"].clone()
    with torch.no_grad():
        net.weight.zero_()
    assert kept["weight"].is_contiguous()
    assert torch.equal(kept["weight"], before)


@pytest.mark.parametrize(("content", "words"), [
    (None, "does not exist; train the run first, or resume it with --resume"),
    (b"", "is damaged or no safetensors file"),
    (b"not tensors at all", "is damaged or no safetensors file"),
])  # fmt: skip
def test_a_missing_or_foreign_file_is_refused_in_a_sentence(content: bytes | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Refused, match=re.escape(f"{file} {words}")) as refusal:
        load_weights(file)
    assert "\n" not in str(refusal.value)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_weights(file, {"w": torch.zeros(100)})
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(Refused, match="is damaged or no safetensors file"):
        load_weights(file)


@pytest.mark.parametrize(("weights", "words"), [
    ({"weight": torch.zeros(2, 5), "bias": torch.zeros(2)}, "size mismatch for weight"),
    ({"weight": torch.zeros(2, 3)}, 'Missing key(s) in state_dict: "bias"'),
    ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "b": torch.zeros(1)}, 'Unexpected key(s) in state_dict: "b"'),
])  # fmt: skip
def test_weights_of_another_model_are_refused_in_a_sentence(weights: dict[str, Tensor], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        install(nn.Linear(3, 2), weights, "runs/mine")
    assert str(refusal.value).startswith("the weights in runs/mine do not fit the model of its settings: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
