"""The scaling model of docs/scale.md: what a step of DWF takes on 1 to 512 GPUs, from counted operations and stated rates.

Nothing here was run on a GPU. A step on N GPUs takes  compute(images a GPU) + averaging(N)  one after the other, as in the code:

    compute   = operations an image x images / (peak x share)
    averaging = 2 (N - 1) / N x bytes / bandwidth + 2 log2(N) x latency       a ring's bytes and a tree's messages

`--write` puts the tables into docs/scale.md between its marks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import log2
from pathlib import Path

from everything import LATEST, table
from harness import between, writer
from steps import spec

from dwf.core.types import Spec
from dwf.models import ResNet
from dwf.models.cost import cost
from dwf.models.timm import Timm

DOCUMENT = Path(__file__).parent.parent / "docs" / "scale.md"
PEAK, SHARE = 989e12, 0.3
"""Dense bf16 operations a second of an H100 or H200 (data sheet), and the share of them that is assumed to be reached."""
NODE, INSIDE, BETWEEN, LATENCY = 8, 450e9, 50e9, 10e-6
"""GPUs a machine; bytes a second and GPU over NVLink (data sheet) and over 400 Gb/s InfiniBand; seconds a message, assumed."""
HOST, CORES = 25e9, 16
"""Bytes a second from the host's memory to a GPU over PCIe, and cores that decode for one GPU; both assumed."""
EXPERTS, STEPS = {"benign": 1, "fgsm": 4, "pgd": 4}, 30
"""Of the paper, and the mean of its PGD steps."""
GPUS = (1, 8, 64, 512)
VALIDATION, PASSES = 500, 2 * 11 + 3
"""Images that score a round, and the cost of one in forward passes: FGSM, ten steps of PGD, three verdicts."""
TEST, TABLE3, BATCH = 10_000, 2 * 181 + 30, 250
"""Images of a test, the cost of one under `table3` (181 gradients: results/benchmarks/table3.json), and of a batch."""


@dataclass(frozen=True)
class Case:
    """One size of problem: nine of these nets on these images."""

    name: str
    images: int
    image: Spec
    net: ResNet | Timm
    batch: int
    """Images a GPU where the batch grows with the GPUs, and of the whole batch where it does not."""
    epochs: tuple[int, int] = (200, 30)
    """Of experts apart and of the joint phase."""

    @property
    def forward(self) -> float:
        """Operations of one net on one image."""
        return 2.0 * cost(self.net, self.image).multiply_adds

    @property
    def joint(self) -> float:
        """Operations of a joint step on one clean image: attacks of 1 and K gradients, then learning from three images."""
        return sum(EXPERTS.values()) * self.forward * (2 * (1 + STEPS) + 3 * 3)

    def apart(self, kind: str) -> float:
        """Operations of one expert's step on one clean image, by itself."""
        return self.forward * (2 * {"benign": 0, "fgsm": 1, "pgd": STEPS}[kind] + 3)

    @property
    def bytes(self) -> float:
        """Gradients of a joint step in fp32; running statistics are a hundredth of them."""
        return 4.0 * sum(EXPERTS.values()) * cost(self.net, self.image).parameters


CASES = (
    Case("CIFAR-10, nine ResNet-18, 32 x 32", 45_000, spec(), ResNet(), 128),
    Case("ImageNet, nine ResNet-18 of timm, 224 x 224", 1_281_167, spec(224), Timm(name="resnet18", stem="original"), 64),
)


def computing(operations: float) -> float:
    """Seconds on one GPU."""
    return operations / (PEAK * SHARE)


def averaging(gpus: int, count: float, inside: float = INSIDE, between: float = BETWEEN, latency: float = LATENCY) -> float:
    """Seconds to average `count` bytes over the ranks."""
    if gpus == 1:
        return 0.0
    return 2 * (gpus - 1) / gpus * count / (inside if gpus <= NODE else between) + 2 * log2(gpus) * latency


def growing(case: Case, *, fixed: bool) -> str:
    """A table over numbers of GPUs; `fixed`: the whole batch stays the paper's, so that each GPU has a part of it."""
    rows = []
    for gpus in GPUS:
        images = case.batch / gpus if fixed else case.batch
        if images < 2:  # batch-norm
            rows.append([str(gpus), "-", "-", "-", "-", "fewer than two images a GPU for batch-norm"])
            continue
        if images * gpus > case.images:
            rows.append([str(gpus), "-", "-", "-", "-", "a batch would be more than the data set"])
            continue
        compute, average = computing(case.joint * images), averaging(gpus, case.bytes)
        steps = case.images // (images * gpus)
        hours = case.epochs[1] * steps * (compute + average) / 3600
        cells = [f"{1000 * compute:,.1f}", f"{1000 * average:.1f}", f"{compute / (compute + average):.0%}", f"{hours:,.3g}"]
        rows.append([str(gpus), *cells, f"{steps:,.0f}"])
    return table(["GPUs", "compute, ms", "averaging, ms", "efficiency", "hours of the joint phase", "steps an epoch"], rows)


def decoded() -> str:
    """JPEGs of 500 x 375 that a GPU's cores decode in a second, from what one core does (decoding.py)."""
    found = json.loads(LATEST.read_text()).get("decoding") if LATEST.exists() else None
    return f"{CORES * found['of_a_core']:,.0f}" if found else "not measured"


def feeding(case: Case) -> str:
    """Images a second that one GPU asks for in each kind of phase, beside what a host can give."""
    asked = {f"{kind} expert": 1 / computing(case.apart(kind)) for kind in EXPERTS} | {"joint": 1 / computing(case.joint)}
    pixels = case.image.channels * case.image.height * case.image.width
    given = [f"{HOST / pixels:,.0f}", decoded()]
    rows = [[phase, f"{rate:,.0f}", *given] for phase, rate in asked.items()]
    return table(["phase", "images a second, one GPU", "from host memory", "decoded from JPEG"], rows)


def judging(case: Case) -> str:
    """Seconds of a joint epoch and of what judges it, by GPUs, with batches that grow."""
    one, rows = sum(EXPERTS.values()) * case.forward, []
    for gpus in (gpus for gpus in GPUS if gpus * case.batch <= case.images):
        epoch = case.images / gpus * computing(case.joint) + case.images / case.batch / gpus * averaging(gpus, case.bytes)
        whole, batches = computing(VALIDATION * PASSES * one), -(-TEST // BATCH)
        test = -(-batches // gpus) * computing(BATCH * TABLE3 * one)
        rows.append([str(gpus), f"{epoch:,.1f}", f"{whole:.2f}", f"{whole / min(gpus, VALIDATION):.3f}", f"{test:,.1f}"])
    head = [
        "GPUs",
        "joint epoch, s",
        "validation, each GPU all of it, s",
        "validation dealt out, s",
        "`table3` of 10,000 images, s",
    ]
    return table(head, rows)


def experts(case: Case) -> str:
    """Hours of the experts' own phases on one GPU after another, and side by side on nine."""
    hours = {kind: computing(case.apart(kind)) * case.images * case.epochs[0] / 3600 for kind in EXPERTS}
    whole = sum(count * hours[kind] for kind, count in EXPERTS.items())
    rows = [[kind, str(count), f"{hours[kind]:,.2f}"] for kind, count in EXPERTS.items()]
    rows.append(["all, one after another", str(sum(EXPERTS.values())), f"{whole:,.2f}"])
    rows.append(["all, side by side", str(sum(EXPERTS.values())), f"{max(hours.values()):,.2f}"])
    return table(["experts", "how many", "GPU-hours each, or in all"], rows)


def checked() -> str:
    """The model's answer for two gloo ranks on two cores beside what was measured there."""
    if not LATEST.exists() or (found := json.loads(LATEST.read_text()).get("ranks")) is None:
        return "Not measured yet.\n"
    one = min(found["seconds_of_a_step"]["1"])
    average = found["bytes_of_a_step"] / found["bytes_per_second"] + found["latency"]
    rows = [
        ["latency of a message, us", f"{1e6 * found['latency']:,.0f}", ""],
        ["averaging, GB a second", f"{found['bytes_per_second'] / 1e9:.2f}", ""],
        ["a step on one rank, ms", f"{1000 * one:,.0f}", ""],
        ["times faster on two", f"{found['times']:.2f}", f"{one / (one / 2 + average):.2f}"],
    ]
    return table(["two gloo ranks, one core each", "measured", "model"], rows)


def tables() -> str:
    """All of them, under their headings."""
    parts = [f"### The model against a measurement\n\n{checked()}"]
    for case in CASES:
        about = f"{case.joint / 1e9:,.0f} billion operations an image and joint step, {case.bytes / 1e6:,.0f} MB of gradients."
        parts.append(f"### {case.name}\n\n{about}\n")
        parts.append(f"The batch grows, {case.batch} images a GPU:\n\n{growing(case, fixed=False)}")
        parts.append(f"The batch stays at {case.batch}:\n\n{growing(case, fixed=True)}")
        parts.append(f"Data:\n\n{feeding(case)}")
        parts.append(f"Judging:\n\n{judging(case)}")
        parts.append(f"Experts apart, {case.epochs[0]} epochs:\n\n{experts(case)}")
    return "\n".join(parts)


def main() -> None:
    """Print, or write."""
    parser = writer(__doc__.splitlines()[0], DOCUMENT)
    if parser.parse_args().write:
        between(DOCUMENT, tables())
    else:
        print(tables())


if __name__ == "__main__":
    main()
