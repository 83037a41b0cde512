"""Processes of this machine, each pinned to its share of the cores, or to one GPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

import torch

from dwf.core.errors import Refused
from dwf.core.journal import Record
from dwf.executors.job import Job, Outcome, Tell, attempt


class Share(NamedTuple):
    """What one process may use."""

    cores: tuple[int, ...]
    gpu: str | None

    def take(self) -> None:
        """Keep this process to it."""
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu  # read when CUDA starts, which importing torch does not do
        if hasattr(os, "sched_setaffinity"):  # Linux has it
            os.sched_setaffinity(0, self.cores)
        torch.set_num_threads(min(torch.get_num_threads(), len(self.cores)))


class _Running(NamedTuple):
    job: Job
    process: SpawnProcess
    slot: int


@dataclass(frozen=True)
class Processes:
    """A fresh process for each job, `workers` at a time."""

    workers: int | None = None
    """None: one for each GPU that `device` allows, else one for each core."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise Refused(f"--workers is {self.workers}, and somebody must work; give at least 1")

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[tuple[Job, Outcome]]:
        """Each as soon as it has ended. Nobody survives this process: not when it is interrupted, nor when it is killed."""
        context, shares = multiprocessing.get_context("spawn"), self.shares(len(jobs))
        waiting, free = deque(jobs), deque(range(len(shares)))
        running: dict[Any, _Running] = {}
        try:
            while waiting or running:
                while waiting and free:
                    job, slot = waiting.popleft(), free.popleft()
                    ear, mouth = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(job, shares[slot], mouth), daemon=True)
                    process.start()
                    mouth.close()  # the process has the only one now: when it dies, the pipe ends
                    running[ear] = _Running(job, process, slot)
                for ready in wait(list(running)):
                    job, process, slot = running[ready]
                    said = _heard(ready, process)
                    if isinstance(said, Outcome):
                        process.join()
                        running.pop(ready)
                        free.append(slot)
                        yield job, said
                    else:
                        tell(job.name, said)
        finally:
            for _, process, _ in running.values():
                process.kill()
            for _, process, _ in running.values():
                process.join()

    def shares(self, jobs: int) -> list[Share]:
        """The machine, cut into equal parts for at most `jobs` processes; more processes than cores share them."""
        cores, gpus = _cores(), _gpus() if self.device in ("auto", "cuda") else []
        count = max(1, min(self.workers or len(gpus) or len(cores), jobs))
        each = max(1, len(cores) // count)
        return [
            Share(tuple(cores[(slot * each + i) % len(cores)] for i in range(each)), gpus[slot % len(gpus)] if gpus else None)
            for slot in range(count)
        ]


def _cores() -> list[int]:
    """Those that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES would name them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(number) for number in range(64)])[: torch.cuda.device_count()]


def _heard(ear: Any, process: SpawnProcess) -> Record | Outcome:
    """The next thing that a process says; its outcome where it has none left to say."""
    try:
        said: Record | Outcome = ear.recv()
    except (EOFError, OSError):  # it ended without a last word, or in the middle of one
        process.join()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Outcome(f"its process {how}; if that was for want of memory, use fewer --workers")
    return said


def _work(job: Job, share: Share, mouth: Connection) -> None:
    """What a process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches everybody in the terminal, and our parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    share.take()
    mouth.send(attempt(job, mouth.send))


def _die_with_parent() -> None:
    """A parent that is killed cannot stop its children, who would go on writing into folders that are to be resumed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
