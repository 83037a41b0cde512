"""A Ray cluster, or Ray on this machine (extra `ray`). All machines must see the run folders and the data under the same paths."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dwf.core.errors import Refused
from dwf.executors.job import Job, Outcome, Tell, attempt


@dataclass(frozen=True)
class Ray:
    """A task for each job. What Ray finds decides: RAY_ADDRESS, a cluster that runs on this machine, or one that it starts."""

    workers: int | None = None
    """Jobs at a time, each with its share of the cores; None: as many as there are GPUs or, without any, cores."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            raise Refused("Ray is not installed; install it with: pip install ray, or use --executor processes")
        if self.workers is not None and self.workers < 1:
            raise Refused(f"--workers is {self.workers}, and somebody must work; give at least 1")

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[tuple[Job, Outcome]]:
        """Each as soon as it has ended; `tell` hears nothing, because jobs run elsewhere: look into their journals."""
        if not jobs:
            return
        import ray

        began = not ray.is_initialized()
        if began:
            ray.init(logging_level=logging.WARNING)
        try:
            yield from self._run(ray, deque(jobs))
        finally:
            if began:
                ray.shutdown()

    def _run(self, ray: Any, waiting: deque[Job]) -> Iterator[tuple[Job, Outcome]]:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(node.get("GPU", 0) for node in nodes) if self.device in ("auto", "cuda") else 0
        total, smallest = (count(int(node.get("CPU", 1)) for node in nodes) for count in (sum, min))
        cores = 1 if self.workers is None else max(1, min(total // min(self.workers, len(waiting)), smallest))
        # Not tried again by Ray: a job that goes on where it stood is what --resume is for.
        task = ray.remote(_work).options(num_cpus=cores, num_gpus=1 if gpus else 0, max_retries=0)
        running: dict[Any, Job] = {}
        while waiting or running:
            while waiting and (self.workers is None or len(running) < self.workers):
                job = waiting.popleft()
                running[task.remote(job, str(Path.cwd()), cores)] = job
            (ended, *_), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(ended), _outcome(ray, ended)


def _outcome(ray: Any, ended: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(ended)
    except ray.exceptions.RayError as error:
        return Outcome(f"its Ray worker died ({str(error).splitlines()[0]})")
    return outcome


def _work(job: Job, folder: str, cores: int) -> Outcome:
    """What a worker does; `folder` is that of the command, which relative data paths count from."""
    if Path(folder).is_dir():
        os.chdir(folder)
    torch.set_num_threads(min(torch.get_num_threads(), cores))
    return attempt(job, lambda record: None)
