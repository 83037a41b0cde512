"""A job is data: the name of a function that every process can import, and what JSON can hold. What it makes lies in files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dwf.core.errors import Refused
from dwf.core.journal import Listener, Record

Tell = Callable[[str, Record], None]
"""Told of a job's progress, with the job's name, where the executor can carry it."""


@dataclass(frozen=True)
class Job:
    """`work(tell, **arguments)`, somewhere."""

    name: str
    work: Callable[..., None]
    """A function of a module. Its first argument is a listener."""
    arguments: Mapping[str, Any]
    """JSON values; folders are absolute."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    error: str | None = None
    """One sentence; None where all went well."""


class Executor(Protocol):
    """Runs jobs that need nothing of each other."""

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[tuple[Job, Outcome]]:
        """Every job once, each as soon as it has ended. A job that fails or whose process dies takes no other with it."""
        ...


def attempt(job: Job, listener: Listener) -> Outcome:
    """Do a job in this process. What it refuses is its outcome; so is any other error, whose traceback goes to the log."""
    try:
        job.work(listener, **job.arguments)
    except Refused as refusal:
        return Outcome(str(refusal))
    except Exception as error:
        logging.getLogger(__name__).exception("job '%s' failed", job.name)
        return Outcome(f"{type(error).__name__}: {error}")
    return Outcome()
