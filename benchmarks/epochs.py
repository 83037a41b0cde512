"""Real epochs of a recipe through `dwf train`, one expert of each kind and the joint phase, and the hours of the whole from them.

Two epochs of each with the data on the device, augmentation, validation and checkpoints; the last round of each counts, since the
first one compiles. No plan and no rate is in it: what a phase takes is its rounds times what one of its rounds took. `--quick` runs
the digits' recipe on few images.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from harness import arguments, publish
from steps import spec

from dwf import read, train
from dwf.core import journal
from dwf.run import Run
from dwf.training.plan import kind_of

RECIPES = ("dwf-cifar10", "dwf-cifar10-fast")
QUICK = ("data.limit=150", "method.backbone={kind='resnet', depth=10, width=2}", "validation.samples=20", "validation.steps=1")
EXPERTS = [
    *("method.fgsm=1", "method.pgd=1", "method.experts.epochs=2", "method.warm_start='none'"),
    *("method.freeze_experts=true", "method.gate.reads='nothing'"),  # then nothing is left for a joint phase
]
"""One expert of each kind and no joint phase."""
JOINT = ["method.pretrain=false", "method.warm_start='none'", "method.joint.epochs=2"]
"""All experts, untrained, in the joint phase alone."""


def rounds(preset: str, sets: list[str], data: str | None, device: str) -> dict[str, float]:
    """Kind of phase -> seconds of its last round."""
    with tempfile.TemporaryDirectory() as folder:
        train(read(preset, sets, data=data), folder, device=device)
        records = [record for record in journal.read(Path(folder) / "train.jsonl") if record["event"] == "round"]
    return {kind_of(record["phase"]): record["seconds"] for record in records}


def whole(run: Run) -> Counter[str]:
    """Kind of phase -> rounds of all its phases together in the recipe as it is."""
    found = Counter[str]()
    for phase in run.method.phases(run.method.model(spec())):
        found[phase.kind] += phase.rounds
    return found


def main() -> None:
    """Train, count and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", help="a folder with CIFAR-10; from the hub if not given")
    chosen = parser.parse_args()
    figures = {}
    for preset in ("dwf-digits",) if chosen.quick else RECIPES:
        small = list(QUICK) if chosen.quick else []
        seconds = {}
        for part in (EXPERTS, JOINT):
            seconds |= rounds(preset, small + part, chosen.data, chosen.device)
        times = whole(read(preset))
        hours = {kind: times[kind] * seconds[kind] / 3600 for kind in times}
        figures[preset] = {"seconds_of_a_round": seconds, "rounds": times, "hours": hours, "hours_in_all": sum(hours.values())}
    publish("epochs", {"device": chosen.device, "recipes": figures}, chosen.json)


if __name__ == "__main__":
    main()
