"""Here, in this process, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from dwf.executors.job import Job, Outcome, Tell, attempt


@dataclass(frozen=True)
class Local:
    """No process but this one: all cores and every device for each job."""

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[tuple[Job, Outcome]]:
        """In the order of `jobs`."""
        for job in jobs:
            yield job, attempt(job, partial(tell, job.name))
