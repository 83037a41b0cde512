"""`dwf attack`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dwf.cli.shared import Device, Precision, Quiet, Sets, app, console
from dwf.core.wording import plural

if TYPE_CHECKING:
    from dwf.core.result import Score


class Norm(StrEnum):
    """What a radius measures."""

    linf = "linf"
    l2 = "l2"


@app.command(epilog="Example: dwf attack runs/mine --attack pgd --eps 8/255 --samples 100 --out adversarial --set attack.steps=20")
def attack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained run folder.")],
    out: Annotated[Path, typer.Option(help="A new folder for images, arrays and manifest.json.")],
    name: Annotated[str, typer.Option("--attack", help="See: dwf list attacks")] = "pgd",
    eps: Annotated[str | None, typer.Option(help="Radius, as 8/255 or 0.03; 8/255 for linf and 0.5 for l2 if not given")] = None,
    norm: Annotated[Norm | None, typer.Option(help="Of the radius; the attack's own if not given")] = None,
    images: Annotated[Path | None, typer.Option(metavar="FOLDER", help="With a folder of images for each class.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Or so many test images of the run, every class in its share.")] = None,
    data: Annotated[str | None, typer.Option(help="The run's data set in another place, by name or folder.")] = None,
    sets: Sets = None,
    target: Annotated[str | None, typer.Option(metavar="CLASS", help="The class to reach; any wrong one if not given")] = None,
    surrogate: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Make the images on this run, and judge them by RUN.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the subset and of the attack's noise.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images attacked at a time.")] = 250,
    precision: Annotated[Precision, typer.Option(help="Of the attack; the verdict is always fp32.")] = Precision.auto,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Write adversarial images as files, with a manifest of what each one does to the run, also after rounding to 8 bits."""
    from dwf import verbs
    from dwf.progress import evaluating

    with evaluating(console, quiet=quiet) as watch:
        manifest = verbs.attack(
            run,
            name,
            out=out,
            images=images,
            samples=samples,
            data=data,
            eps=eps,
            norm=None if norm is None else norm.value,
            overrides=sets or [],
            target=target,
            surrogate=surrogate,
            device=device,
            precision=precision.value,
            batch=batch,
            seed=seed,
            watch=watch,
        )
    total, count = manifest.totals, plural(manifest.data.n, "image")
    made = f" made on {manifest.surrogate.run}" if manifest.surrogate else ""
    lines = (
        f"{manifest.model.run}, {count} of {manifest.data.name}, {name} {manifest.threat.text}{made}: accuracy "
        f"{_score(total.clean)} clean, {_score(total.adversarial)} under attack, {_score(total.rounded)} after rounding to 8 bits",
        manifest.note,
        f"Written: {out} (adversarial/, clean/, images.npz, manifest.json)",
    )
    console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)


def _score(score: Score) -> str:
    return f"{score.accuracy:.1%} [{score.ci95[0]:.1%}, {score.ci95[1]:.1%}]"
