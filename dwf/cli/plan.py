"""`dwf plan`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from dwf.cli.shared import Device, Memory, Sets, app, console, given
from dwf.core.wording import duration, place

if TYPE_CHECKING:
    from dwf.verbs.plan import PhaseCost, Plan, Work


@app.command(epilog="Example: dwf plan dwf-cifar10-mini --data path/to/parquet/folder --set method.joint.epochs=2")
def plan(
    preset: Annotated[str, typer.Argument(metavar="PRESET|FILE.toml", help="See: dwf list presets")],
    out: Annotated[Path | None, typer.Option(help="The run folder to be: plan.json goes there, for the report.")] = None,
    data: Annotated[str | None, typer.Option(help="A data set by name, a folder of parquet files, or of class folders.")] = None,
    sets: Sets = None,
    memory: Memory = None,
    device: Device = "auto",
) -> None:
    """What a run will cost: passes, operations, memory and time, from a calibration of seconds. Nothing is trained."""
    from dwf import run as runs
    from dwf import verbs
    from dwf.verbs.plan import paper_work

    run = runs.read(preset, [*(sets or []), *given("train.memory", memory)], data=data)
    with console.status("calibrating"):
        found, paper = verbs.plan(run, out, device=device), paper_work()
    _phases(found)
    if run.train.patience is not None:
        console.print(f"These are upper bounds: train.patience = {run.train.patience} may end any phase before its last round.")
    _devices(found, paper)
    if out is not None:
        console.print(f"Written: {out / 'plan.json'}\nNext: dwf train {preset} --out {out}", markup=False)


def _phases(found: Plan) -> None:
    table = Table(title=f"{found.run} on {place(found.environment)}", title_justify="left", box=None, pad_edge=False)
    table.add_column("phase")
    for name in ("rounds", "images", "forward\npasses", "backward\npasses", "operations", "memory\nof a step", "time"):
        table.add_column(name, justify="right")
    for name, phases in _alike(found):
        first, times = phases[0], len(phases)
        table.add_row(
            name,
            f"{times * first.rounds:,}",
            f"{times * first.images:,}",
            f"{first.forwards:g}",
            f"{first.backwards:g}",
            _operations(times * first.flops),
            f"{max(phase.memory for phase in phases) / 2**20:,.0f} MiB",
            duration(sum(phase.seconds for phase in phases)),
        )
    most = max(phase.memory for phase in found.phases) + found.data
    table.add_row("all", "", "", "", "", _operations(found.flops), f"{most / 2**20:,.0f} MiB", duration(found.seconds))
    console.print(table, "")
    console.print(
        "Passes are for each clean image, attacks included. Memory is an estimate, the last line's with the data set; PyTorch "
        "itself takes some hundred MiB more."
    )
    for said in dict.fromkeys(f"{phase.kind}: {phase.measures.said()}" for phase in found.phases if phase.measures):
        console.print(said, highlight=False)


def _alike(found: Plan) -> list[tuple[str, list[PhaseCost]]]:
    """Phases in a row that cost the same, under one name: `pgd x 4`."""
    groups = [(kind, list(group)) for (kind, _), group in groupby(found.phases, key=lambda phase: (phase.kind, phase.flops))]
    return [(f"{kind} x {len(phases)}" if len(phases) > 1 else phases[0].name, phases) for kind, phases in groups]


def _devices(found: Plan, paper: Sequence[Work]) -> None:
    from dwf.verbs.plan import LAUNCH, PAPER, PAPER_HOURS, SHARE, elsewhere

    table = Table(title="Time on one device", title_justify="left", box=None, pad_edge=False)
    for name in ("phase", "operations", "here", *elsewhere(())):
        table.add_column(name, justify="left" if name == "phase" else "right")
    groups = [*_alike(found), ("all", list(found.phases))]
    rows = [(name, [phase.work for phase in phases], sum(phase.seconds for phase in phases)) for name, phases in groups]
    pace = found.flops / max(found.seconds, 1e-9)
    rows.append((f"the paper's recipe ({PAPER})", list(paper), sum(work.flops for work in paper) / pace))
    for name, works, seconds in rows:
        there = map(duration, elsewhere(works).values())
        table.add_row(name, _operations(sum(work.flops for work in works)), duration(seconds), *there)
    console.print("", table, "", sep="\n")
    console.print(
        f"'here' is from the calibration, and the paper's recipe there at this run's pace. GPUs are assumed, not measured: "
        f"{SHARE:.0%} of the peak, or {1e6 * LAUNCH:g} us for each convolution where that takes longer. Two cores with bf16 matrix "
        "units run at what a ResNet-18 reaches there; narrow nets take twice as long. "
        f"The paper states about {PAPER_HOURS} hours of H100."
    )


def _operations(flops: float) -> str:
    """1.2e15 -> `1.2 PFLOP`."""
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if flops >= size:
            return f"{flops / size:,.3g} {unit}"
    return f"{flops / 1e9:,.3g} GFLOP"
