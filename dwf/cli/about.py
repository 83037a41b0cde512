"""`dwf list` and `dwf doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dwf.cli.shared import app, console


@app.command("list", epilog="Example: dwf list presets --json")
def list_(
    what: Annotated[
        str | None, typer.Argument(help="methods, attacks, datasets, backbones, protocols or presets; all if not given")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What there is to choose from."""
    from dwf.inventory import inventory

    shelves = inventory(what)
    if as_json:
        typer.echo(json.dumps(shelves, indent=1))
        return
    for shelf, members in shelves.items():
        table = Table("name", "what it is", title=shelf, title_justify="left", box=None, pad_edge=False)
        for name, about in members.items():
            table.add_row(name, escape(about))
        console.print(table, "")


@app.command(epilog="Example: dwf doctor")
def doctor() -> None:
    """Versions, device, precision and optional parts: what to send with a bug report."""
    from dwf.inventory import diagnosis

    problems, facts = diagnosis()
    for name, value in facts.items():
        console.print(f"{name:<14} {value}", highlight=False)
    for problem in problems:
        console.print(f"[bold]problem[/bold]        {problem}", highlight=False)
    if problems:
        raise typer.Exit(1)
