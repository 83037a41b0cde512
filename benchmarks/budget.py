"""What runs cost to train, to store and to ask, in operations: fit to compare runs of different machines and of shared cores.

Operations of a run are those of a step, counted (`dwf.verbs.plan.operations`), for every image that its journal says was trained
on, attacks among them, in whatever run a phase was learnt. Validation is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from harness import publish, reader

from dwf.core import journal
from dwf.core.record import read_record
from dwf.core.types import Spec
from dwf.models.cost import multiply_adds
from dwf.run import Run, RunFolder, build
from dwf.verbs.plan import operations


def budget(folder: Path) -> dict[str, float]:
    """Of one run folder; `tflop` is what was spent so far, should it not be finished."""
    record = read_record(folder)
    run, spec = Run.read(record["settings"], where=str(folder)), Spec.read(record["spec"], where=str(folder))
    each, images, seconds = operations(run, spec), dict[str, int](), 0.0
    for line in journal.read(RunFolder(folder).journal):
        if line["event"] == "round":
            images[line["phase"]] = images.get(line["phase"], 0) + line["images"]
            seconds += line["seconds"]
    model = build(run, spec, torch.device("cpu"))
    asked = 2 * multiply_adds(model, torch.rand(1, spec.channels, spec.height, spec.width))
    found: dict[str, Any] = {"parameters": record["parameters"], "mflop_a_prediction": asked / 1e6}
    found["tflop"] = sum(each[phase] * count for phase, count in images.items()) / 1e12
    return {**found, "minutes": seconds / 60}


def main() -> None:
    """One line a run."""
    parser = reader(__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    chosen = parser.parse_args()
    names = [folder.name for folder in chosen.runs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SystemExit(f"two of the runs are both called '{twice}'; ask for them one after the other")
    found = {folder.name: {key: round(value, 2) for key, value in budget(folder).items()} for folder in chosen.runs}
    publish("budget", {"runs": found}, chosen.json)


if __name__ == "__main__":
    main()
