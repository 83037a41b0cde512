"""`dwf demo` and `dwf train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dwf.cli.shared import Device, Memory, Quiet, Resume, Sets, Where, Workers, app, console, given, show_table


@app.command(epilog="Example: dwf demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Where the three runs and the report go.")] = Path("runs/demo"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Nine experts and a gate on handwritten digits, beside a plain and a PGD-trained net: train, attack, report."""
    from dwf import demo as story
    from dwf.progress import evaluating, watching

    def act(name: str, number: int, total: int) -> None:
        console.print(f"\n[bold]{number}/{total}  {name}[/bold]")

    with watching(console, quiet=quiet) as listeners, evaluating(console, quiet=quiet) as watch:
        page, evaluated = story.play(out, device=device, listeners=listeners, watch=watch, act=act)
    show_table(evaluated)
    address = page.resolve().as_uri()
    console.print(f"The whole story: {page}\nOpen it in a browser, for instance: python3 -m webbrowser -t {address}", markup=False)


@app.command(epilog="Example: dwf train dwf-cifar10-mini --data path/to/parquet/folder --set method.joint.epochs=2 --out runs/mine")
def train(
    preset: Annotated[str, typer.Argument(metavar="PRESET|FILE.toml", help="See: dwf list presets")],
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<name> if not given")] = None,
    data: Annotated[str | None, typer.Option(help="A data set by name, a folder of parquet files, or of class folders.")] = None,
    sets: Sets = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides the preset's seed.")] = None,
    memory: Memory = None,
    executor: Annotated[Where, typer.Option(help="processes, ray: phases that need no other learn side by side.")] = Where.local,
    workers: Workers = None,
    device: Device = "auto",
    resume: Resume = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write RUN/tensorboard.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a preset or a TOML file into a run folder. Under torchrun, on several devices: torchrun -m dwf train ..."""
    from dwf import executors, verbs
    from dwf import run as runs
    from dwf.progress import watching

    overrides = [*(sets or []), *given("seed", seed), *given("train.memory", memory)]
    run = runs.read(preset, overrides, data=data)
    somewhere = executors.choose(executor.value, workers, device)
    folder = out or Path("runs") / (run.name if run.seed == 0 else f"{run.name}-seed{run.seed}")
    with watching(console, quiet=quiet) as listeners:
        if tensorboard:
            from dwf.tensorboard import listener

            listeners.append(listener(folder))
        apart = None if executor is Where.local else somewhere
        verbs.train(run, folder, device=device, resume=resume, listeners=listeners, executor=apart)
    console.print(f"Trained: {folder}\nNext: dwf evaluate {folder} --protocol table3", markup=False)
