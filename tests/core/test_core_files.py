"""Nothing half-written under a final name, and a sentence where the operating system refuses."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from dwf.core import files
from dwf.core.errors import Refused
from dwf.core.files import sweep, writable, write_json, written, written_folder

Making = Callable[[Path], AbstractContextManager[Path]]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def refusing(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def fill(beside: Path) -> None:
    """Whether a file or a folder is wanted."""
    (beside / "a.txt" if beside.is_dir() else beside).write_text("new")


def failing(beside: Path, trouble: BaseException) -> None:
    fill(beside)
    raise trouble


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.txt"
    with written(path) as beside:
        beside.write_text("half")
        assert not path.exists()
        assert beside.parent == path.parent
        assert beside.name.startswith(".")
        beside.write_text("whole")
    assert path.read_text() == "whole"
    assert names(tmp_path) == ["deep", "deep/er", "deep/er/a.txt"]


@pytest.mark.parametrize("place", [".", "..", "folder"])
def test_a_folder_is_no_place_for_a_file(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder" if place != "folder" else tmp_path)
    with pytest.raises(Refused, match="is a folder and cannot be written as a file"):
        write_json(Path(place), {})


def test_a_file_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written(path) as beside:
        failing(beside, KeyboardInterrupt())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        sync(handle)

    def replaced(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not tell which file a handle belongs to")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with written(tmp_path / "a.txt") as beside:
        beside.write_text("whole")
    assert done == [f"sync {beside.name}", "rename", f"sync {tmp_path.name}"]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "3"
    with written_folder(path) as beside:
        (beside / "a.txt").write_text("a")
        (beside / "b.txt").write_text("b")
        assert not path.exists()
    assert names(path) == ["a.txt", "b.txt"]
    assert names(tmp_path / "checkpoints") == ["3", "3/a.txt", "3/b.txt"]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), written_folder(tmp_path / "3") as beside:
        failing(beside, ZeroDivisionError())
    assert names(tmp_path) == []


def test_a_folder_starts_empty_after_a_kill_under_the_same_number(tmp_path: Path) -> None:
    leftover = files._beside(tmp_path / "3")
    leftover.mkdir()
    (leftover / "old.txt").write_text("old")
    with written_folder(tmp_path / "3") as beside:
        (beside / "new.txt").write_text("new")
    assert names(tmp_path) == ["3", "3/new.txt"]


@pytest.mark.parametrize("write", [written, written_folder])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["fsync", "inside"])
def test_a_full_disc_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Making, number: int, where: str
) -> None:
    path = tmp_path / "run" / "weights"
    if where == "fsync":
        monkeypatch.setattr(files.os, "fsync", refusing(number))
    sentence = f"^no space left on the device while writing {path}; free some and run the command again$"
    with pytest.raises(Refused, match=sentence), write(path) as beside:
        failing(beside, OSError(number, "full")) if where == "inside" else fill(beside)
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize("write", [written, written_folder])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_missing_rights_are_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Making, number: int
) -> None:
    monkeypatch.setattr(Path, "mkdir", refusing(number))
    sentence = rf"^{tmp_path / 'a'} cannot be written \({os.strerror(number)}\); choose another place$"
    with pytest.raises(Refused, match=sentence), write(tmp_path / "a") as beside:
        fill(beside)


@pytest.mark.parametrize("write", [written, written_folder])
def test_a_read_only_folder_is_refused(tmp_path: Path, write: Making) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(Refused, match=r"cannot be written \(Permission denied\)"), write(tmp_path / "a") as beside:
            fill(beside)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("write", [written, written_folder])
@pytest.mark.parametrize("below", ["child", "child/grandchild"])
def test_a_file_where_a_folder_should_be_is_refused(tmp_path: Path, write: Making, below: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(Refused, match=r"cannot be written \(.+\); choose another place"),
        write(tmp_path / "file" / below),
    ):
        pass
    assert (tmp_path / "file").read_text() == "in the way"


def test_other_trouble_is_not_dressed_up(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error") as raised, writable(tmp_path):
        refusing(errno.EIO)()
    assert raised.value.errno == errno.EIO


def test_sweep_removes_what_a_kill_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "state" / ".3.99.writing").mkdir(parents=True)
    (tmp_path / "state" / ".3.99.writing" / "weights").write_text("half")
    (tmp_path / ".run.json.99.writing").write_text("half")
    kept = [".hidden", "run.json", "notes.writing", "state/2"]
    for name in kept:
        (tmp_path / name).write_text("whole")
    sweep(tmp_path)
    assert names(tmp_path) == sorted([*kept, "state"])


def test_json_refuses_what_no_other_reader_takes(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 2.5, None]})
    before = path.read_text()
    assert before.endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == before
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("make", [written, written_folder])
def test_what_a_killed_process_left_goes_with_the_next_write(make: Making, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = files._HOST
    others = [f".a.{here}.{os.getppid()}.writing", f".a.elsewhere.{gone.pid}.writing", f".ab.{here}.1.writing", ".a.writing"]
    for name in [f".a.{here}.{gone.pid}.writing", f".a.{here}.{2**70}.writing", *others]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
    with make(tmp_path / "a") as beside:
        fill(beside)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a", *others]), "who is still writing is left alone"
