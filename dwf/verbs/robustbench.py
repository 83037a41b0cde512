"""A result of the reference AutoAttack as RobustBench wants it: model-info JSON with its exact keys, and the issue text."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from dwf.core.files import write_json, written
from dwf.core.record import FOREIGN
from dwf.core.result import AttackEntry, Result

_ISSUE = """\
## Paper Information

- Paper Title:
- Paper URL: {link}
- Paper authors: {authors}

## Leaderboard Claim(s)

### Model 1

- Architecture: {architecture}
- Dataset: {dataset}
- Threat Model: {norm}
- eps: {eps}
- Clean accuracy: {clean_acc}
- Robust accuracy: {autoattack_acc}
- Additional data: {additional_data}
- Evaluation method: AutoAttack ({version}), {n} test images, 95 % interval {low} to {high}; forward passes a prediction: {passes}
- Checkpoint and code:

## Model Zoo:

- [ ] I want to add my models to the Model Zoo (check if true)
- [ ] I use an architecture that is included among those of RobustBench or in `timm`. If not, I added the link to the architecture
  implementation so that it can be added.
- [ ] I agree to release my model(s) under MIT license (check if true) **OR** under a custom license, located here:
"""


def submission(result: Result) -> tuple[dict[str, Any], str] | None:
    """(model info, issue text), link, authors and venue left to the user.

    None for a result without the reference AutoAttack's standard version on the whole test set: a leaderboard takes nothing less.
    """
    row = next((attack for attack in result.attacks if attack.name == "autoattack"), None)
    if row is None or row.settings["version"] != "standard" or (result.dataset.split, result.dataset.indices) != ("test", "all"):
        return None
    info = {
        "link": "",
        "name": result.run,
        "authors": "",
        "additional_data": None if result.model.method == FOREIGN else False,  # of a stranger's training nothing is known
        "number_forward_passes": result.model.forward_passes,
        "dataset": result.dataset.name,
        "venue": "",
        "architecture": _architecture(result),
        "eps": _eps(row),
        "clean_acc": _percent(result.clean.accuracy),
        "reported": _percent(row.accuracy),
        "autoattack_acc": _percent(row.accuracy),
        "unreliable": any(flag.class_ == "trust" for flag in result.flags),
    }
    low, high = map(_percent, row.ci95)
    text = _ISSUE.format(
        **info,
        norm="Linf" if row.norm == "linf" else "L2",
        version=row.settings["version"],
        n=row.n,
        low=low,
        high=high,
        passes=result.model.forward_passes,
    )
    return info, text


def store(result: Result, folder: Path) -> list[Path]:
    """Write robustbench/<norm>-<eps>.json and .md into the run folder; the paths, none without the reference AutoAttack."""
    if (made := submission(result)) is None:
        return []
    changed = "".join(f"@{key}{value}" for key, value in sorted(result.model.overridden.items()))
    name = f"{result.worst_case[0].norm}-{made[0]['eps'].replace('/', '_')}{changed}"
    info, text = folder / "robustbench" / f"{name}.json", folder / "robustbench" / f"{name}.md"
    write_json(info, made[0])
    with written(text) as beside:
        beside.write_text(made[1], encoding="utf-8")
    return [info, text]


def _architecture(result: Result) -> str:
    backbone = result.model.settings.get("backbone")
    if not isinstance(backbone, dict):
        return str(result.model.settings.get("model", result.model.method))
    words = [f"{key} {value}" for key, value in backbone.items() if key != "kind"]
    experts = f"{result.model.forward_passes} x " if result.model.forward_passes > 1 else ""
    return f"{experts}{backbone.get('kind', 'net')} ({', '.join(words)})"


def _eps(row: AttackEntry) -> str:
    """`8/255` where it is a whole number of 8-bit steps, as the leaderboard spells Linf; else the decimal."""
    steps = row.eps * 255
    if row.norm == "linf" and abs(steps - round(steps)) < 1e-6:
        return f"{round(steps)}/255"
    return str(float(Fraction(row.eps).limit_denominator(10000)))


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
