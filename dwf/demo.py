"""The story in some minutes: the same small backbone trained plainly, by PGD, and nine times as DWF, on handwritten digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dwf import report
from dwf.core.journal import Listener
from dwf.evaluation.protocol import Watch
from dwf.report import Evaluated
from dwf.run import read
from dwf.verbs import evaluate, train

ACTS = ("plain-digits", "pgd-at-digits", "dwf-digits")
"""Presets, in order of appearance."""
RADIUS = "protocol.eps=0.1"
"""Of the PGD rows. Strokes of full contrast hardly move at CIFAR's 8/255; 0.1 is where a plain net on digits breaks."""


def play(
    out: Path,
    *,
    device: str = "auto",
    listeners: Sequence[Listener] = (),
    watch: Watch | None = None,
    act: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[Path, list[Evaluated]]:
    """Train and evaluate each act under `out` (going on with what is there already); the page, and what it shows.

    `act(name, number, of)` is told when one begins.
    """
    folders = [out / preset for preset in ACTS]
    for number, (preset, folder) in enumerate(zip(ACTS, folders, strict=True)):
        act(preset, number + 1, len(ACTS))
        train(read(preset), folder, device=device, resume=True, listeners=listeners)
        evaluate(folder, "table3", overrides=[RADIUS], device=device, resume=True, watch=watch)
    page, *_ = report.write(folders, out / "report.html")
    return page, [one for folder in folders for one in report.read(folder)]
