"""What the commands share: the application, the console, options, and the table of results."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from dwf.report import Evaluated

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train mixture-of-experts image classifiers that stand up to an adversary, attack them, and report what is left.",
    epilog="Start with: dwf demo",
)
console = Console(
    quiet="WORLD_SIZE" in os.environ and os.environ.get("RANK", "0") != "0", width=None if sys.stdout.isatty() else 140
)
"""Speaks for rank 0 only; wide enough for the table where the output goes to a file."""


class Split(StrEnum):
    """Which images judge."""

    test = "test"
    val = "val"


class Where(StrEnum):
    """What runs independent work."""

    local = "local"
    processes = "processes"
    ray = "ray"


class Compile(StrEnum):
    """Of the attacked copy."""

    auto = "auto"
    always = "always"
    never = "never"


class Precision(StrEnum):
    """Of attack generation."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one setting; may be given several times.")]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Most memory that training may take, such as 4GiB: recomputes, then cuts batches, as needed."
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on exactly where an interrupted job stood.")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="With processes or ray: how many at a time; one a GPU, or one a core, if not given")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def given(setting: str, value: object) -> list[str]:
    """An option that stands for a setting, as `--set` would have it; nothing if it was left out."""
    return [] if value is None else [f"{setting}={value}"]


_WORDS = ("Run", "Evaluation", "Worst case", "Alarms")
"""Columns that may wrap."""
_ONLY_WHEN_WIDE = ("n", "FGSM .01", "FGSM .03", "FGSM .09", "PGD 10")
"""Columns of the paper's table that a terminal of 80 characters has no room for; the report has them all."""


def show_table(evaluated: Sequence[Evaluated]) -> None:
    """The results, as wide as the terminal: all runs where there are several protocols, the paper's table, the other protocols."""
    from dwf import report as reports

    for number, (header, *rows) in enumerate(reports.terminal(evaluated)):
        paper = any(name in _ONLY_WHEN_WIDE[1:] for name in header)
        kept = [i for i, name in enumerate(header) if console.width >= 110 or not paper or name not in _ONLY_WHEN_WIDE]
        table = Table(box=None, pad_edge=False)
        for i in kept:
            words = i == 0 or header[i] in _WORDS
            table.add_column(
                escape(header[i].replace(" ", "\n")), no_wrap=not words, overflow="fold", justify="left" if words else "right"
            )
        for row in rows:
            table.add_row(*(escape(row[i]) for i in kept))
        console.print(*([""] if number else []), table, sep="\n")
