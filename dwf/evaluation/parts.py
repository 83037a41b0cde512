"""An evaluation in progress: one file for each check of each batch, so that an interrupted one can go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dwf.core.errors import Refused
from dwf.core.files import write_json, written

Arrays = dict[str, NDArray[Any]]


class Parts:
    """The finished checks of one evaluation, beside its final file."""

    def __init__(self, folder: Path, identity: dict[str, Any], *, keep: bool) -> None:
        """Parts of another identity (settings, weights, images) or unwanted ones are dropped; call it on rank 0 first."""
        self._folder = folder
        record = folder / "identity.json"
        if not (keep and _content(record) == identity):
            shutil.rmtree(folder, ignore_errors=True)
            write_json(record, identity)

    def done(self, batch: int, check: int) -> bool:
        """Is this check's file there?"""
        return self._file(batch, check).exists()

    def write(self, batch: int, check: int, arrays: Arrays) -> None:
        """Keep what a check found."""
        write_arrays(self._file(batch, check), arrays)

    def read(self, batch: int, check: int) -> Arrays:
        """What a check found."""
        return read_arrays(self._file(batch, check))

    def drop(self) -> None:
        """All is in the final files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, batch: int, check: int) -> Path:
        return self._folder / f"{batch:06d}-{check:03d}.npz"


def _content(record: Path) -> object:
    """None for what is not there or damaged: the evaluation then begins anew."""
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return None


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Named arrays as npz, byte for byte the same for the same arrays (numpy stamps no times), complete or not there."""
    with written(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> Arrays:
    """Named arrays of an npz; pickled objects are never loaded. Raises `Refused` for a missing or damaged file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise Refused(f"{path} is missing or damaged ({error}); delete what is left of this evaluation and run it again") from None
