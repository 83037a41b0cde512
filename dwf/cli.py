"""The command line: each verb is thin, and what it does can be done in Python with `dwf.verbs`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dwf.core.errors import Refused

if TYPE_CHECKING:
    from dwf.report import Evaluated

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train mixture-of-experts image classifiers that stand up to an adversary, attack them, and report what is left.",
    epilog="Start with: dwf demo",
)
console = Console(quiet=os.environ.get("RANK", "0") != "0", width=None if sys.stdout.isatty() else 140)
"""Speaks for rank 0 only; wide enough for the table where the output goes to a file."""


class Split(StrEnum):
    """Which images judge."""

    test = "test"
    val = "val"


class Precision(StrEnum):
    """Of attack generation."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Change one setting; may be given several times.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on exactly where an interrupted job stood.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.command(epilog="Example: dwf demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Where the three runs and the report go.")] = Path("runs/demo"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Nine experts and a gate on handwritten digits, beside a plain and a PGD-trained net: train, attack, report, in 3 minutes."""
    from dwf import demo as story
    from dwf.progress import evaluating, watching

    def act(name: str, number: int, total: int) -> None:
        console.print(f"\n[bold]{number}/{total}  {name}[/bold]")

    with watching(console, quiet=quiet) as listeners, evaluating(console, quiet=quiet) as watch:
        page, evaluated = story.play(out, device=device, listeners=listeners, watch=watch, act=act)
    _table(evaluated)
    address = page.resolve().as_uri()
    console.print(f"The whole story: {page}\nOpen it in a browser, for instance: python3 -m webbrowser -t {address}", markup=False)


@app.command(epilog="Example: dwf train dwf-cifar10-mini --data path/to/parquet/folder --set method.joint.epochs=2 --out runs/mine")
def train(
    preset: Annotated[str, typer.Argument(metavar="PRESET|FILE.toml", help="See: dwf list presets")],
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<name> if not given")] = None,
    data: Annotated[str | None, typer.Option(help="A data set by name, a folder of parquet files, or of class folders.")] = None,
    sets: Sets = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the preset's seed.")] = None,
    device: Device = "auto",
    resume: Resume = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write RUN/tensorboard.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a preset or a TOML file into a run folder. Under torchrun, on several devices: torchrun -m dwf train ..."""
    from dwf import run as runs
    from dwf import verbs
    from dwf.progress import watching

    run = runs.read(preset, [*(sets or []), *([f"seed={seed}"] if seed is not None else [])], data=data)
    folder = out or Path("runs") / (run.name if run.seed == 0 else f"{run.name}-seed{run.seed}")
    with watching(console, quiet=quiet) as listeners:
        if tensorboard:
            from dwf.tensorboard import listener

            listeners.append(listener(folder))
        verbs.train(run, folder, device=device, resume=resume, listeners=listeners)
    console.print(f"Trained: {folder}\nNext: dwf evaluate {folder} --protocol table3", markup=False)


@app.command(epilog="Example: dwf evaluate runs/mine --protocol table3 --set protocol.eps=0.02 --samples 1000")
def evaluate(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="A run folder; or give --model.")] = None,
    protocol: Annotated[str, typer.Option(help="See: dwf list protocols")] = "table3",
    model: Annotated[str | None, typer.Option(help="package.module:factory, timm:NAME or hf-hub:OWNER/NAME")] = None,
    weights: Annotated[Path | None, typer.Option(help="For --model: a safetensors file.")] = None,
    mean: Annotated[str | None, typer.Option(help="For --model: .49,.48,.45 if it takes standardised images")] = None,
    std: Annotated[str | None, typer.Option(help="For --model, with --mean: .25,.24,.26")] = None,
    out: Annotated[Path | None, typer.Option(help="For --model: where results go; runs/<its name> if not given")] = None,
    data: Annotated[str | None, typer.Option(help="By name or folder. A run has its own; it may be in another place.")] = None,
    phase: Annotated[str | None, typer.Option(help="Attack what this phase made, by itself: benign-1, fgsm-1, ...")] = None,
    sets: Sets = None,
    samples: Annotated[int | None, typer.Option(min=1, help="A seeded subset, every class in its share; all if not given")] = None,
    split: Annotated[Split, typer.Option(help="val: what the run held out of its training set.")] = Split.test,
    seed: Annotated[int, typer.Option(min=0, help="Of the subset and of the attacks' noise.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images a batch, the unit of resume.")] = 250,
    precision: Annotated[Precision, typer.Option(help="Of attack generation; the verdict is always fp32.")] = Precision.auto,
    device: Device = "auto",
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Attack a trained run, or any model, by a protocol and write RUN/eval/<protocol>.json."""
    from dwf import report as reports
    from dwf.models.foreign import PROBABILITIES
    from dwf.progress import evaluating
    from dwf.verbs.target import target

    of_run, of_model = {"phase": phase, "split": split.value}, {"weights": weights, "mean": mean, "std": std, "out": out}
    folder, attack = target(run, model, data, of_run, of_model)
    with evaluating(console, quiet=quiet) as watch:
        result = attack(
            protocol=protocol,
            overrides=sets or [],
            samples=samples,
            device=device,
            precision=precision.value,
            batch=batch,
            seed=seed,
            resume=resume,
            watch=watch,
        )
    _table([one for one in reports.read(folder, phase) if one.result == result])
    if result.model.settings.get("outputs") == "probabilities":
        console.print(f"{result.run} {PROBABILITIES}", markup=False)
    for flag in result.flags:
        console.print(f"{flag.class_} flag {flag.code}: {flag.cause} {flag.remedy}", markup=False)


@app.command(epilog="Example: dwf report runs/dwf runs/plain --out report.html")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated run folders.")],
    out: Annotated[Path | None, typer.Option(help="The page; RUN/report.html, or report.html for several, if not given")] = None,
) -> None:
    """One self-contained HTML page about one or more runs, and its table as CSV, Markdown and LaTeX."""
    from dwf import report as reports

    page = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    written = reports.write(runs, page)
    _table([one for run in runs for one in reports.read(run)])
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
            table.add_row(name, about)
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


_WORDS = ("Run", "Evaluation", "Worst case", "Alarms")
"""Columns that may wrap."""
_ONLY_WHEN_WIDE = ("n", "FGSM .01", "FGSM .03", "FGSM .09", "PGD 10")
"""Columns that a terminal of 80 characters has no room for; the report has them all."""


def _table(evaluated: Sequence[Evaluated]) -> None:
    from dwf import report as reports

    header, *rows = reports.terminal(evaluated)
    kept = [i for i, name in enumerate(header) if console.width >= 110 or name not in _ONLY_WHEN_WIDE]
    table = Table(box=None, pad_edge=False)
    for i in kept:
        words = header[i] in _WORDS
        table.add_column(
            escape(header[i].replace(" ", "\n")), no_wrap=not words, overflow="fold", justify="left" if words else "right"
        )
    for row in rows:
        table.add_row(*(escape(row[i]) for i in kept))
    console.print(table)


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main() -> None:
    """Runs the command line; bad input ends with one sentence and exit code 2."""
    try:
        app(standalone_mode=True)
    except Refused as refusal:
        sys.stderr.write(f"dwf: {refusal}\n")
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer turns Ctrl-C into this and says nothing
            sys.stderr.write("dwf: interrupted; run the same command again to go on (train and evaluate: with --resume)\n")
        raise
