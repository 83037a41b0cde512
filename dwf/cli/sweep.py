"""`dwf sweep`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dwf.cli.shared import Device, Quiet, Resume, Where, Workers, app, console, show_table

if TYPE_CHECKING:
    from dwf.cells import Cell
    from dwf.verbs.validated import Validated

FAILED = 1
"""Exit code where a cell failed."""


@app.command(epilog="Example: dwf sweep FILE.toml --executor processes --workers 2    docs/sweep.md has a file of a minute.")
def sweep(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="Cells, a grid over any settings, and protocols.")],
    data: Annotated[str | None, typer.Option(help="Overrides the file's: a data set by name, or a folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the cells' run folders; runs/<file's name> if not given")] = None,
    executor: Annotated[Where, typer.Option(help="Where cells run: here, in processes, or by Ray (extra ray).")] = Where.local,
    workers: Workers = None,
    device: Device = "auto",
    no_reuse: Annotated[bool, typer.Option("--no-reuse", help="Train again what another cell has trained alike.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="CELL", help="This cell now, others later with --resume; may be given several times."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which cells there are.")] = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train and judge every cell of a grid, each an ordinary run folder, and write one report about all."""
    from dwf import executors, verbs
    from dwf import report as reports
    from dwf.cells import cells_of, read_sweep
    from dwf.progress import sweeping

    asked = read_sweep(file, data)
    if dry_run:
        _show(cells_of(asked), asked.set)
        return
    somewhere, folder = executors.choose(executor.value, workers, device), out or Path("runs") / file.stem
    with sweeping(console, len(only or cells_of(asked)), quiet=quiet) as tell:
        swept = verbs.sweep(
            asked, folder, executor=somewhere, device=device, resume=resume, reuse=not no_reuse, only=only or (), tell=tell
        )
    if swept.pages:
        show_table([one for run in swept.finished for one in reports.read(run)])
    elif swept.validated:
        _choose(swept.validated)
    for name, error in swept.failed.items():
        console.print(f"Failed: {name}: {error}", markup=False, highlight=False, soft_wrap=True)
    count = len(cells_of(asked))
    report = f", report: {folder / 'report.html'}" if swept.pages else ""
    console.print(f"{len(swept.finished)} of {count} cells finished in {folder}{report}", markup=False, soft_wrap=True)
    if swept.failed:
        raise typer.Exit(FAILED)


def _show(cells: Sequence[Cell], shared: Sequence[str]) -> None:
    """Each cell with what `dwf train` would have to be told, besides what all have in common."""
    for text in shared:
        console.print(f"All cells: --set {text}", markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for header in ("Cell", "Preset", "Settings"):
        table.add_column(header, overflow="fold")
    for cell in cells:
        table.add_row(*map(escape, (cell.name, cell.preset, "\n".join(cell.overrides[len(shared) :]))))
    console.print(table)


def _choose(lines: Sequence[Validated]) -> None:
    """Nothing was judged: what the cells scored on the images that they held out."""
    table = Table(box=None, pad_edge=False)
    table.add_column("Cell", overflow="fold")
    for header in ("SA", "FGSM", "RA", "SA + RA", "n", "round", "minutes"):
        table.add_column(header, justify="right")
    for one in lines:
        scores = (f"{100 * score:.1f}" for score in (one.sa, one.fgsm, one.ra, one.sa + one.ra))
        table.add_row(escape(one.cell), *scores, str(one.n), f"{one.round}/{one.rounds}", f"{one.seconds / 60:.1f}")
    console.print(table)
