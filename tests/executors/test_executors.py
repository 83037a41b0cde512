"""Every job once, and none takes another with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import executor_jobs
import pytest

import dwf.executors
from dwf.cli.shared import Where
from dwf.core.errors import Refused
from dwf.core.journal import Record
from dwf.executors import Executor, Job, Local, Processes, choose

HERE = Path(__file__).parent


def silent(name: str, record: Record) -> None:
    pass


def ended(executor: Executor, jobs: Sequence[Job]) -> dict[str, str | None]:
    """Job -> error."""
    outcomes = [(job.name, outcome.error) for job, outcome in executor.run(jobs, silent)]
    assert len(dict(outcomes)) == len(outcomes) == len(jobs), "every job ends once"
    return dict(outcomes)


def test_every_module_is_listed() -> None:
    modules = {file.stem for file in Path(dwf.executors.__file__).parent.glob("*.py")} - {"__init__", "job"}
    assert {where.value for where in Where} == modules


@pytest.mark.parametrize("executor", [Local(), Processes(2, "cpu")], ids=["local", "processes"])
def test_a_job_that_fails_leaves_the_others_alone(executor: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jobs = [
        Job("refused", executor_jobs.refuse, {}),
        Job("wrong", executor_jobs.stumble, {}),
        Job("good", executor_jobs.note, {"file": str(tmp_path / "good")}),
    ]
    heard: list[tuple[str, str]] = []
    outcomes = list(executor.run(jobs, lambda name, record: heard.append((name, record["event"]))))
    assert {job.name: outcome.error for job, outcome in outcomes} == {
        "refused": "the egg is square; boil another",
        "wrong": "KeyError: 'missing'",
        "good": None,
    }
    assert heard == [("good", "noted")]
    assert (tmp_path / "good").exists()


def test_a_process_that_dies_fails_its_job_alone(tmp_path: Path) -> None:
    jobs = [
        Job("killed", executor_jobs.die, {}),
        Job("left", executor_jobs.leave, {}),
        Job("good", executor_jobs.note, {"file": str(tmp_path / "good")}),
    ]
    remedy = "; if that was for want of memory, use fewer --workers"
    assert ended(Processes(2, "cpu"), jobs) == {
        "killed": f"its process was killed by SIGKILL{remedy}",
        "left": f"its process ended with exit code 7{remedy}",
        "good": None,
    }


def test_each_process_keeps_to_its_share_of_the_cores(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    executor = Processes(2, "cpu")
    shares = executor.shares(2)
    jobs = [Job(str(n), executor_jobs.note, {"file": str(tmp_path / str(n))}) for n in range(2)]
    assert ended(executor, jobs) == {"0": None, "1": None}
    notes = [(tmp_path / str(n)).read_text().split() for n in range(2)]
    assert len({os.getpid(), *(int(pid) for pid, _, _ in notes)}) == 3, "a process for each"
    assert sorted(used for _, used, _ in notes) == sorted(",".join(map(str, share.cores)) for share in shares)
    assert all(int(threads) <= max(1, len(cores) // 2) for _, _, threads in notes)


@pytest.mark.parametrize(("workers", "jobs", "cut"), [
    (None, 9, [(0,), (1,), (2,), (3,)]),
    (2, 9, [(0, 1), (2, 3)]),
    (3, 9, [(0,), (1,), (2,)]),
    (4, 1, [(0, 1, 2, 3)]),
    (6, 9, [(0,), (1,), (2,), (3,), (0,), (1,)]),
])  # fmt: skip
def test_the_cores_are_cut_into_equal_parts(
    workers: int | None, jobs: int, cut: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dwf.executors.processes._cores", lambda: [0, 1, 2, 3])
    assert [share.cores for share in Processes(workers, "cpu").shares(jobs)] == cut


@pytest.mark.parametrize(("device", "visible", "gpus"), [
    ("auto", None, ["0", "1", "0"]), ("cuda", "4,7", ["4", "7", "4"]), ("cpu", None, [None] * 3), ("cuda:1", None, [None] * 3),
])  # fmt: skip
def test_gpus_go_round(device: str, visible: str | None, gpus: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [share.gpu for share in Processes(3, device).shares(9)] == gpus


def test_nobody_survives_a_killed_parent(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = (
        "from executor_jobs import last; from dwf.executors import Job, Processes\n"
        f"if __name__ == '__main__': list(Processes(1, 'cpu').run([Job('x', last, {{'file': {str(file)!r}}})], print))"
    )
    (tmp_path / "main.py").write_text(code)
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    parent = subprocess.Popen([sys.executable, tmp_path / "main.py"], env=where)
    try:
        child = int(_until(lambda: file.exists() and file.read_text()))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _until(lambda: not Path(f"/proc/{child}").exists() or "State:\tZ" in Path(f"/proc/{child}/status").read_text())


def _until(condition: object, limit: float = 120) -> str:
    deadline = time.monotonic() + limit
    while not (found := condition()):  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return str(found)


def test_a_generator_that_is_left_takes_its_processes_with_it(tmp_path: Path) -> None:
    jobs = [Job("quick", executor_jobs.refuse, {}), Job("long", executor_jobs.last, {"file": str(tmp_path / "pid")})]
    running = Processes(2, "cpu").run(jobs, silent)
    assert next(running)[0].name == "quick"
    child = int(_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    running.close()  # type: ignore[attr-defined]
    assert not Path(f"/proc/{child}").exists()


def test_workers_are_refused_where_nobody_could_work() -> None:
    with pytest.raises(Refused, match="--workers 2 needs processes to work in; add --executor processes or ray, or leave it out"):
        choose("local", 2, "cpu")
    with pytest.raises(Refused, match="--workers is 0, and somebody must work; give at least 1"):
        choose("processes", 0, "cpu")


def test_no_jobs_are_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a sweep whose cells share nothing, or that is complete."""
    monkeypatch.setattr("dwf.executors.ray.find_spec", lambda name: True)
    for executor in (choose("local", None, "cpu"), choose("processes", 2, "cpu"), choose("ray", 2, "cpu")):
        assert list(executor.run([], lambda name, record: None)) == []


def test_ray_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwf.executors.ray.find_spec", lambda name: None)
    with pytest.raises(Refused, match="Ray is not installed; install it with: pip install ray, or use --executor processes"):
        choose("ray", None, "cpu")
