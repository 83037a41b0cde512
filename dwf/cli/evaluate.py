"""`dwf evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dwf.cli.shared import Compile, Device, Precision, Quiet, Resume, Sets, Split, app, console, show_table
from dwf.core.wording import threat

if TYPE_CHECKING:
    from dwf.core.result import Result

STRICT = 3
"""Exit code of --strict where the number cannot be trusted."""


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
    surrogate: Annotated[list[Path] | None, typer.Option(metavar="RUN", help="Also try images made on this run.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the subset and of the attacks' noise.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images a batch, the unit of resume.")] = 250,
    precision: Annotated[Precision, typer.Option(help="Of attack generation; the verdict is always fp32.")] = Precision.auto,
    compile: Annotated[Compile, typer.Option(help="Generate code for the nets; auto: where it gains.")] = Compile.auto,
    device: Device = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 3 if any trust flag is raised.")] = False,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Attack a trained run, or any model, by a protocol and write RUN/eval/<protocol>.json."""
    from dwf import report as reports
    from dwf.models.foreign import PROBABILITIES
    from dwf.progress import evaluating
    from dwf.verbs.robustbench import store
    from dwf.verbs.target import target

    of_run = {"phase": phase, "split": split.value, "compile": compile.value}
    of_model = {"weights": weights, "mean": mean, "std": std, "out": out}
    folder, attack = target(run, model, data, of_run, of_model)
    with evaluating(console, quiet=quiet) as watch:
        result = attack(
            protocol=protocol,
            overrides=sets or [],
            samples=samples,
            surrogates=surrogate or [],
            device=device,
            precision=precision.value,
            batch=batch,
            seed=seed,
            resume=resume,
            watch=watch,
        )
    show_table([one for one in reports.read(folder, phase) if one.result == result])
    if result.model.settings.get("outputs") == "probabilities":
        console.print(f"{result.run} {PROBABILITIES}", markup=False)
    for flag in result.flags:
        console.print(f"{flag.class_} flag {flag.code}: {flag.cause} {flag.remedy}", markup=False)
    for file in [] if phase else store(result, folder):
        console.print(f"For RobustBench (link, authors and venue are yours to fill in): {file}", markup=False)
    console.print(_headline(result), markup=False, highlight=False)
    if strict and any(flag.class_ == "trust" for flag in result.flags):
        raise typer.Exit(STRICT)


def _headline(result: Result) -> str:
    """The one number that an evaluation ends in."""
    worst, images = result.worst_case[0], result.dataset
    space = "" if worst.space == "pixel" else " in the standardised space, which is less among pixels"
    return (
        f"Worst case over {len(worst.attacks)} rows at {threat(worst.norm, worst.eps)}{space}: {worst.accuracy:.1%} "
        f"[{worst.ci95[0]:.1%}, {worst.ci95[1]:.1%}], SA {result.clean.accuracy:.1%}, "
        f"n = {images.n} of {images.name} {images.split} ({images.indices})"
    )
