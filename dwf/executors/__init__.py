"""Where independent work runs: here, in processes of this machine, or on a Ray cluster. All go through one door."""

from dwf.core.errors import Refused
from dwf.executors.job import Executor, Job, Outcome, Tell, attempt
from dwf.executors.local import Local
from dwf.executors.processes import Processes
from dwf.executors.ray import Ray

__all__ = ["Executor", "Job", "Local", "Outcome", "Processes", "Ray", "Tell", "attempt", "choose"]


def choose(name: str, workers: int | None, device: str) -> Executor:
    """`local`, `processes` or `ray`, for jobs that compute on `device`; raises `Refused` for workers where there is only one."""
    if name == "local":
        if workers is not None:
            raise Refused(f"--workers {workers} needs processes to work in; add --executor processes or ray, or leave it out")
        return Local()
    return Processes(workers, device) if name == "processes" else Ray(workers, device)
