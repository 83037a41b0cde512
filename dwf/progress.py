"""What a person watches: one live line while a phase learns, one lasting line per round of note."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from dwf.core.journal import Listener, Record
from dwf.evaluation.protocol import Watch
from dwf.executors import Tell
from dwf.training.memory import Measures


@contextmanager
def watching(console: Console, *, quiet: bool = False) -> Iterator[list[Listener]]:
    """Listeners for a training journal: a live bar in a terminal, plain lines elsewhere, nothing if `quiet`."""
    if quiet:
        yield []
        return
    with _bar(console) as bar:
        yield [_Watcher(console, bar)]


def _bar(console: Console) -> Progress:
    """A live line in a terminal, gone when the work is done; nothing elsewhere."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


class _Watcher:
    def __init__(self, console: Console, bar: Progress) -> None:
        self._console, self._bar = console, bar
        self._task: TaskID | None = None
        self._phase, self._began, self._last_line = "", 0.0, 0.0
        self._first = 0  # the round that this process began with: a resumed phase has done others before
        self._apart: set[str] = set()  # phases that were shown while they learnt in a process of their own

    def __call__(self, record: Record) -> None:
        match record["event"]:
            case "data" if record["skipped"]:
                self._console.print(f"skipped {record['skipped']} bad entries of the data", highlight=False)
            case "apart":
                self._apart.add(record["phase"])
                self._line(f"{record['phase']} (apart)", record)
            case "phase":
                self._phase = f"{record['phase']} ({record['index'] + 1}/{record['phases']})"
                self._began, self._first = time.monotonic(), -1
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task(self._phase, total=record["rounds"], state="")
                if "memory" in record:
                    self._console.print(f"{self._phase:<22} {Measures(**record['memory']).said()}", highlight=False, soft_wrap=True)
            case "step":
                self._show(record, record["round"] + record["done"], f"loss {record['loss']:.3f}")
            case "round":
                self._show(record, record["round"] + 1, _scores(record))
                if record["phase"] not in self._apart:
                    self._line(self._phase, record)

    def _line(self, phase: str, record: Record) -> None:
        last = _last(record)
        if last or time.monotonic() - self._last_line > 5:  # many short rounds would flood the screen
            self._last_line = time.monotonic()
            reused = f"  reused from {record['reused_from']}" if "reused_from" in record else ""
            early = "  stopped early" if "stopped" in record else ""
            said = f"{phase:<22} round {record['round'] + 1:>3}/{record['rounds']:<3} {_scores(record)}{early}{reused}"
            self._console.print(said, highlight=False, markup=False)

    def _show(self, record: Record, done: float, state: str) -> None:
        self._first = record["round"] if self._first < 0 else self._first
        if self._task is not None:
            spent, mine = time.monotonic() - self._began, done - self._first
            left = spent / mine * (record["rounds"] - done) if mine else 0.0
            self._bar.update(
                self._task, completed=done, state=f"round {record['round'] + 1}/{record['rounds']}  {state}  {_clock(left)} left"
            )


def _last(record: Record) -> bool:
    """Whether a phase ends with this round."""
    return "stopped" in record or bool(record["round"] + 1 == record["rounds"])


def _scores(record: Record) -> str:
    scores: dict[str, Any] = record["validation"]
    return f"loss {record['loss']:.3f}  SA {scores['sa']:.1%}  FGSM {scores['fgsm']:.1%}  RA {scores['ra']:.1%}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


@contextmanager
def evaluating(console: Console, *, quiet: bool = False) -> Iterator[Watch | None]:
    """A watcher for an evaluation: a live bar with the accuracy so far and the time left; a line a check without a terminal."""
    if quiet:
        yield None
        return
    with _bar(console) as bar:
        yield _AttackWatcher(console, bar)


class _AttackWatcher:
    def __init__(self, console: Console, bar: Progress) -> None:
        self._console, self._bar, self._last = console, bar, 0.0
        self._task: TaskID | None = None
        self._spent: list[float] = []

    def __call__(self, done: int, total: int, accuracy: Mapping[str, float]) -> None:
        now, before, self._last = time.monotonic(), self._last, time.monotonic()
        if done == 1:
            self._spent = []
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task("attacking", total=total, state="")
        elif now - before > 0.2:  # faster ones were read from an interrupted evaluation
            self._spent.append(now - before)
        left = _clock(sum(self._spent) / len(self._spent) * (total - done)) if self._spent else "some time"
        latest = list(accuracy)[-1]
        state = f"check {done}/{total}  SA {accuracy['clean']:.1%}  {latest} {accuracy[latest]:.1%}  {left} left"
        if self._task is not None:
            self._bar.update(self._task, completed=done, state=state)
        if not self._console.is_terminal:
            self._console.print(f"attacking  {state}", highlight=False)


@contextmanager
def sweeping(console: Console, cells: int, *, quiet: bool = False) -> Iterator[Tell]:
    """A watcher for the cells of a sweep: a line for each phase that ends, each verdict, and each cell; nothing if `quiet`."""
    ended, shown = 0, set[tuple[str, str]]()

    def tell(name: str, record: Record) -> None:
        nonlocal ended
        match record["event"]:
            case "round" if _last(record):
                cell = name.removesuffix(f"/{record['phase']}")
                if (cell, record["phase"]) in shown:  # it was told of by the process that learnt it
                    return
                shown.add((cell, record["phase"]))
                reused = f"  reused from {record['reused_from']}" if "reused_from" in record else ""
                said = f"{cell}  {record['phase']}  {_scores(record)}{reused}"
            case "judged":
                said = f"{name}  {record['protocol']}  {record['accuracy']:.1%} of {record['n']}"
            case "cell":
                ended += 1
                how = "finished" if record["error"] is None else "failed"
                said = f"{name}  {how} ({ended} of {cells})"
            case _:
                return
        console.print(said, markup=False, highlight=False, soft_wrap=True)

    yield (lambda name, record: None) if quiet else tell
