"""The journal of a run: appended, cut back on resume, read in spite of a torn end."""

import errno
import os
import re
from pathlib import Path

import pytest

from dwf.core.errors import Refused
from dwf.core.journal import Journal, Record, read


def test_records_are_appended_and_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "run" / "train.jsonl"
    for first in (0, 2):
        journal = Journal(path)
        journal.write(step=first, loss=0.5)
        journal.write(step=first + 1, note="\u2028 two\nlines é")
        journal.close()
    assert [record["step"] for record in read(path)] == [0, 1, 2, 3]
    assert list(read(path))[1] == {"step": 1, "note": "\u2028 two\nlines é"}


def test_a_resumed_journal_is_cut_to_what_the_checkpoint_had_seen(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    journal = Journal(path)
    journal.write(step=0)
    kept = journal.synced_bytes()
    assert kept == path.stat().st_size
    journal.write(step=1)
    journal.close()
    resumed = Journal(path, keep_bytes=kept)
    resumed.write(step=10)
    assert resumed.synced_bytes() == path.stat().st_size > kept
    resumed.close()
    assert [record["step"] for record in read(path)] == [0, 10]


def test_a_journal_that_was_deleted_starts_afresh(tmp_path: Path) -> None:
    """Cutting must not pad: a reader cannot take zero bytes."""
    path = tmp_path / "train.jsonl"
    journal = Journal(path, keep_bytes=1000)
    journal.write(step=7)
    journal.close()
    assert list(read(path)) == [{"step": 7}]


def test_kept_bytes_of_zero_empty_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 1}\n')
    Journal(path, keep_bytes=0).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("torn", ['{"st', "{", '{"step": 2}'])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n' + torn)
    assert [record["step"] for record in read(path)] == [0, 1]


def test_listeners_are_told_what_is_kept_and_what_passes(tmp_path: Path) -> None:
    path, first, second = tmp_path / "train.jsonl", list[Record](), list[Record]()
    journal = Journal(path, [first.append, second.append])
    journal.write(step=0, loss=1.5)
    journal.show(step=1)
    journal.close()
    assert first == second == [{"step": 0, "loss": 1.5}, {"step": 1}]
    assert list(read(path)) == [{"step": 0, "loss": 1.5}]


def test_a_rank_without_a_file_still_tells_its_listeners() -> None:
    told: list[Record] = []
    journal = Journal(None, [told.append])
    journal.write(step=0)
    assert journal.synced_bytes() == 0
    journal.close()
    assert told == [{"step": 0}]


def test_a_full_disc_is_refused_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.jsonl"
    journal = Journal(path)
    journal.write(step=0)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Refused, match=f"^no space left on the device while writing {path}; free some"):
            journal.synced_bytes()
    journal.close()
    assert list(read(path)) == [{"step": 0}]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Refused, match=r"train.jsonl cannot be written \(.+\); choose another place"):
        Journal(tmp_path / "file" / "train.jsonl")
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(Refused, match=r"train.jsonl cannot be written \(Is a directory\)"):
        Journal(tmp_path / "train.jsonl")


@pytest.mark.parametrize("line", ["{", "", "1", "[]"])
def test_a_damaged_line_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"step": 0}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(Refused, match=re.escape(f"{path} is damaged, its line 2 is no JSON object; remove the line")):
        list(read(path))
