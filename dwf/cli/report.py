"""`dwf report` and `dwf compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dwf.cli.shared import app, console, show_table


@app.command(epilog="Example: dwf report runs/dwf runs/plain --out report.html")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated run folders.")],
    out: Annotated[Path | None, typer.Option(help="The page; RUN/report.html, or report.html for several, if not given")] = None,
) -> None:
    """One self-contained HTML page about one or more runs, and its table as CSV, Markdown and LaTeX."""
    from dwf import report as reports

    page = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    written = reports.write(runs, page)
    show_table(reports.read_all(runs))
    console.print("\n".join(str(path) for path in written), markup=False)


@app.command(epilog="Example: dwf compare runs/pgd-at runs/dwf --csv comparison.csv")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_A RUN_B [RUN...]", help="Evaluated run folders, the baseline first.")],
    protocol: Annotated[
        str | None, typer.Option(help="An evaluation by its name under RUN/eval; the first that all runs share if not given")
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write every row there.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The same for programs.")] = None,
) -> None:
    """Who is better? Pairs the images of runs that were evaluated alike: differences with intervals, tests, the worst case."""
    from dwf.report import compare as compare_runs
    from dwf.report.comparison import caveats, sentence, store, title, versus

    compared = compare_runs(runs, protocol)
    written = store(compared, csv_file, json_file)
    console.print(f"{title(compared)}", markup=False, highlight=False)
    for duel in compared.duels:
        header, *rows = versus(duel)
        console.print(f"\nA  {compared.a.name}\nB  {duel.b.name}", markup=False, highlight=False)
        table = Table(box=None, pad_edge=False, collapse_padding=console.width < 110)
        for i, name in enumerate(header):
            table.add_column(escape(name), justify="right" if i else "left", no_wrap=i > 0, overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    also = [f"The runs share {name} too: --protocol {name}" for name in compared.also]
    console.print(
        "", *caveats(compared), *also, *(f"Written: {file}" for file in written), "", sep="\n", markup=False, highlight=False
    )
    console.print(sentence(compared), markup=False, highlight=False)
