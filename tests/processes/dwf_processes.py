"""Real processes of the command line: started, watched, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from dwf.core import journal

PRESET = """
about = "Seconds"
[data]
source = { kind = "digits", size = 8 }
limit = 300
crop = 1
flip = false
[method]
kind = "dwf"
backbone = { kind = "resnet", depth = 10, width = 2 }
gate = { hidden = 8 }
fgsm = 1
pgd = 1
pgd_steps = [1, 2]
[method.experts]
epochs = 2
batch = 50
optimizer = { kind = "sgd", learning_rate = 0.05 }
[method.joint]
epochs = 2
batch = 50
optimizer = { kind = "sgd", learning_rate = 0.02 }
[validation]
samples = 20
steps = 1
"""

# One thread and one precision, so that equal bytes do not depend on the machine.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "0", "NO_COLOR": "1", "TERM": "dumb"}


def preset(folder: Path) -> Path:
    """The TOML file of a run of seconds."""
    file = folder / "seconds.toml"
    file.write_text(PRESET)
    return file


def start(words: Sequence[str | Path], *, launcher: Sequence[str] = ("-m", "dwf")) -> subprocess.Popen[str]:
    """`dwf words`, running."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs would ignore Ctrl-C
    try:
        return subprocess.Popen(
            [sys.executable, *launcher, *map(str, words)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, inherited)


def finish(process: subprocess.Popen[str], limit: float = 300) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    out, err = process.communicate(timeout=limit)
    return process.returncode, out, err


def done(words: Sequence[str | Path], *, launcher: Sequence[str] = ("-m", "dwf")) -> str:
    """The output of a `dwf words` that must succeed."""
    code, out, err = finish(start(words, launcher=launcher))
    assert code == 0, err
    return out


def until(condition: Any, process: subprocess.Popen[str], limit: float = 300) -> None:
    """Wait for something that a running process does."""
    deadline = time.monotonic() + limit
    while not condition():
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def works(folder: Path, sign: str, since: float) -> bool:
    """Whether a file like `sign` was written since that moment of the clock."""
    with suppress(FileNotFoundError):  # gone between the listing and the look
        return any(file.stat().st_mtime >= since for file in folder.glob(sign))
    return False


def killed(words: Sequence[str | Path], folder: Path, sign: str, after: float) -> bool:
    """Kill -9 that many seconds after the job set to work, then look at the folder; whether it was still alive."""
    began = time.time()
    process = start(words)
    while process.poll() is None and not works(folder, sign, began):
        time.sleep(0.02)
    time.sleep(after)
    process.kill()
    code, _, err = finish(process)
    assert code in (0, -9), err
    if folder.exists():
        whole(folder)
    return code == -9


def whole(folder: Path) -> None:
    """Every file under a final name can be read."""
    for file in folder.rglob("*"):
        if not file.is_file() or any(part.endswith(".writing") for part in file.parts):
            continue
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".safetensors":
            load_file(file)
        elif file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                assert all(arrays[name] is not None for name in arrays.files)
        elif file.suffix == ".jsonl":
            list(journal.read(file))


def leftovers(folder: Path) -> list[str]:
    """What a killed process left half-written."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*.writing")]


def untimed(value: Any) -> Any:
    """A JSON value without what the clock put there."""
    if isinstance(value, dict):
        return {key: untimed(inner) for key, inner in value.items() if key not in ("seconds", "started")}
    return [untimed(inner) for inner in value] if isinstance(value, list) else value


def records(folder: Path) -> list[Any]:
    """The journal without its times."""
    return untimed(list(journal.read(folder / "train.jsonl")))
