"""Work for executors, in a module that every process can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from dwf.core.errors import Refused
from dwf.core.journal import Listener


def note(tell: Listener, *, file: str) -> None:
    """Say so, and write down who and where."""
    tell({"event": "noted", "file": file})
    cores = sorted(os.sched_getaffinity(0))
    Path(file).write_text(f"{os.getpid()} {','.join(map(str, cores))} {torch.get_num_threads()}")


def refuse(tell: Listener) -> None:
    raise Refused("the egg is square; boil another")


def stumble(tell: Listener) -> None:
    raise KeyError("missing")


def die(tell: Listener) -> None:
    """As if memory had run out."""
    os.kill(os.getpid(), signal.SIGKILL)


def leave(tell: Listener) -> None:
    """End without a word."""
    os._exit(7)


def last(tell: Listener, *, file: str) -> None:
    """Go on for ever."""
    Path(file).write_text(str(os.getpid()))
    time.sleep(10_000)
