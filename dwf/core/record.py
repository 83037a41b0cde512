"""run.json, what a run folder says about itself: read here and nowhere else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dwf.core.errors import Refused
from dwf.core.result import RUN_SCHEMA

FOREIGN = "foreign"
"""The `kind` of method in the record of a folder that holds evaluations alone: its model was made elsewhere."""

_TABLES = ("settings", "spec", "data", "environment")
_VALUES = ("name", "seed")


def read_record(folder: Path) -> dict[str, Any]:
    """The content of `folder`/run.json.

    Raises `Refused` for a missing folder, a folder that is no run, another schema, and a record that is damaged or has a hole.
    """
    if os.path.isfile(folder):  # unlike is_file, it takes a name that is too long for one that is not there
        raise Refused(f"{folder} is a file; name the folder of a run, where its run.json is")
    if not os.path.isdir(folder):
        raise Refused(f"run folder {folder} does not exist; train one with: dwf train PRESET --out {folder}")
    path = folder / "run.json"
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{folder} is not a run folder: it has no run.json; train one with: dwf train PRESET --out ...") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}); repair its rights or choose another folder") from None
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(record, dict):
        raise _damaged(path, "it is not a table")
    if record.get("schema") != RUN_SCHEMA:
        raise Refused(f"{folder} was written with schema {record.get('schema')}, this version reads {RUN_SCHEMA}; train it again")
    for key in _TABLES:
        if not isinstance(record.get(key), dict):
            raise _damaged(path, f"'{key}' is missing or not a table")
    for key in _VALUES:
        if key not in record:
            raise _damaged(path, f"'{key}' is missing")
    return record


def _damaged(path: Path, how: str) -> Refused:
    return Refused(f"{path} is damaged ({how}); restore it or train the run again")
