"""Nothing half-written under a final name: every file and folder is written beside, synced and renamed."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dwf.core.errors import Refused

_HOST = re.sub(r"\W", "-", platform.node())[:40]
_MARK = ".writing"
"""Ends the name of what is being written. Leftovers of a killed process go when somebody writes the same again, or by `sweep`."""


def place(text: str) -> Path:
    """A path as a user wrote it, `~` included; raises `Refused` for the home of somebody who is not there."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise Refused(f"'{text}' begins with the home of a user who is not there; write the path out") from None


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yields a path to write to; on success it becomes `path` in one rename. Full discs and missing rights are `Refused`."""
    with writable(path):
        if path.is_dir():
            raise Refused(f"{path} is a folder and cannot be written as a file; name a file in it")
        beside = _beside(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _bury(path)
        try:
            yield beside
            _sync(beside)
            os.replace(beside, path)
            _sync(path.parent)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """The same for a folder that does not exist yet: yields a folder to fill; on success it becomes `path` in one rename."""
    beside = _beside(path)
    with writable(path):
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        _bury(path)
        try:
            yield beside
            for file in beside.iterdir():
                _sync(file)
            _sync(beside)
            os.rename(beside, path)
            _sync(path.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


_FORBIDDEN = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL),
)


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turns the operating system's refusal to write under `path` into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(f"no space left on the device while writing {path}; free some and run the command again") from error
        # What is not there may be a file that was to be read.
        absent = error.errno == errno.ENOENT and Path(str(error.filename)).is_relative_to(path.parent)
        if error.errno in _FORBIDDEN or absent:
            raise Refused(f"{path} cannot be written ({error.strerror}); choose another place") from error
        raise


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON; NaN is refused, because no other reader would take it."""
    with written(path) as beside:
        beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written anywhere under `folder`. Call it under the folder's lock."""
    for leftover in list(folder.rglob(f".*{_MARK}")):
        _remove(leftover)


def _beside(path: Path) -> Path:
    """Tells who writes: machines that share a folder do not know each other's processes."""
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}{_MARK}")


def _bury(path: Path) -> None:
    """Remove what processes of this machine that are gone left half-written of `path`."""
    for leftover in path.parent.iterdir():
        name = leftover.name
        if name.startswith(f".{path.name}.") and name.endswith(_MARK):
            host, _, pid = name[len(path.name) + 2 : -len(_MARK)].rpartition(".")
            if host == _HOST and pid.isdigit() and not _at_work(int(pid)):
                _remove(leftover)


def _at_work(pid: int) -> bool:
    """Whether a process of that number is there."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _remove(leftover: Path) -> None:
    if leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
