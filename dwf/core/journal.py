"""train.jsonl: one JSON object a line, appended while a run trains, cut back to the last checkpoint when it resumes."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dwf.core.errors import Refused
from dwf.core.files import writable

Record = Mapping[str, Any]
Listener = Callable[[Record], None]
"""Somebody who watches: the progress line, TensorBoard. A listener never changes what is trained."""


class Journal:
    """Appends records to a file and tells the listeners. Rank 0 keeps one; the others keep `Journal(None)`."""

    def __init__(self, path: Path | None, listeners: Sequence[Listener] = (), keep_bytes: int | None = None) -> None:
        """`keep_bytes`: cut an existing file to this length first (what the last checkpoint had seen); None keeps it all.

        Raises `Refused` for an existing file that is damaged, or cannot be written.
        """
        self._listeners = tuple(listeners)
        self._file = None
        if path is not None:
            with writable(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                if keep_bytes is not None:
                    os.truncate(path, min(keep_bytes, path.stat().st_size))  # never padded, where it was deleted
                if path.is_file():
                    deque(read(path), maxlen=0)  # a damaged one is refused before hours of work, whose records would join it
                self._file = path.open("a", encoding="utf-8")

    def write(self, **record: Any) -> None:
        """Append one record and show it to the listeners."""
        if self._file is not None:
            with writable(Path(self._file.name)):
                self._file.write(json.dumps(record) + "\n")
        self.show(**record)

    def show(self, **record: Any) -> None:
        """Show a passing state to the listeners without keeping it."""
        for listener in self._listeners:
            listener(record)

    def records(self, phase: str) -> list[dict[str, Any]]:
        """What was written about a phase, by whatever process."""
        if self._file is None:
            return []
        self.synced_bytes()
        return [record for record in read(Path(self._file.name)) if record.get("phase") == phase]

    def synced_bytes(self) -> int:
        """Flush to the disc; the length so far, for the checkpoint."""
        if self._file is None:
            return 0
        with writable(Path(self._file.name)):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Flush and close."""
        self.synced_bytes()
        if self._file is not None:
            self._file.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal; a last line cut short by a kill is left out.

    Raises `Refused` for any other line that is no record.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is damaged, its byte {error.start} is no text; restore it or train the run again") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}); restore it or train the run again") from None
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if line.endswith("\n"):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise Refused(f"{path} is damaged, its line {number} is no JSON object; remove the line or train the run again")
            yield record
