"""The journal's numbers in TensorBoard, for who asks: `dwf train ... --tensorboard` (extra `tensorboard`)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from dwf.core.errors import Refused
from dwf.core.files import writable
from dwf.core.journal import Listener, Record


def listener(folder: Path) -> Listener:
    """Writes each round's numbers under `folder`/tensorboard; raises `Refused` where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise Refused(
            "TensorBoard is not installed; install it with: pip install tensorboard, or leave --tensorboard out"
        ) from None

    @cache
    def opened() -> SummaryWriter:  # not before the run has its folder: nothing is written into somebody else's
        with writable(folder):
            return SummaryWriter(str(folder / "tensorboard"))

    def show(record: Record) -> None:
        if record["event"] == "round":
            writer = opened()
            for name, value in _numbers(record):
                writer.add_scalar(f"{record['phase']}/{name}", value, record["round"] + 1)
            writer.flush()

    return show


def _numbers(record: Record) -> Iterator[tuple[str, float]]:
    """Losses, rates and validation accuracies; not the counters."""
    for name, value in {**record, **record["validation"]}.items():
        if isinstance(value, float):
            yield name, value
