"""What every benchmark shares: arguments, the machine in words, alternating timings, and a JSON record.

Compared are ratios of medians measured alternately in one process, never seconds of different days.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dwf.core import heap


def arguments(about: str) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = reader(about)
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer repeats, smaller nets")
    return parser


def reader(about: str) -> argparse.ArgumentParser:
    """A parser for what times nothing and publishes figures."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    return parser


def writer(about: str, document: Path) -> argparse.ArgumentParser:
    """A parser for what makes tables of a document."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--write", action="store_true", help=f"into {document.name}, between its marks")
    return parser


def alternate(contenders: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each contender, run in turn `repeats` times after `warmup` uncounted turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warmup + repeats):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def as_dwf_runs(step: Callable[[], object]) -> Callable[[], object]:
    """The step with freed memory kept, as every dwf command keeps it."""

    def run() -> object:
        heap.keep()
        return step()

    return run


def as_a_script_runs(step: Callable[[], object]) -> Callable[[], object]:
    """The step as in a process that says nothing of its memory and has seen large blocks."""

    def run() -> object:
        heap.give_back(at_once=False)
        return step()

    return run


def spread(seconds: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Its name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def peak_of_this_process() -> float:
    """MiB, by the kernel's own high-water mark: getrusage would also count the parent that started this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def publish(name: str, figures: dict[str, Any], file: Path | None) -> None:
    """Print the figures, and write them where asked."""
    record = {"benchmark": name, "machine": machine(), **figures}
    text = json.dumps(record, indent=1)
    print(text)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")


def with_interval(share: float, bounds: tuple[float, float]) -> str:
    """Fractions as percent: `34.6 [31.7, 37.6]`."""
    return f"{100 * share:.1f} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def between(document: Path, text: str) -> None:
    """Put `text` between the marks `<!-- tables -->` and `<!-- end of tables -->` of a document."""
    if not document.exists():
        raise SystemExit(f"{document} does not exist; write it first, with lines '<!-- tables -->' and '<!-- end of tables -->'")
    before, mark, rest = document.read_text().partition("<!-- tables -->\n")
    _, end, after = rest.partition("<!-- end of tables -->\n")
    if not (mark and end):
        raise SystemExit(f"{document} has no lines '<!-- tables -->' and '<!-- end of tables -->' to write between")
    document.write_text(f"{before}{mark}{text}{end}{after}")
