"""One joint step of DWF (nine experts, PGD-10, 64 clean images) against a plain reading of the paper's algorithm 3.

The plain reading: fp32, NCHW, `loss.backward()` inside the attack, a loop over the experts. Ours is the method's own generator.
Peak memory is that of a fresh process that takes one step each way.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from harness import alternate, arguments, publish, spread
from torch import Tensor, nn

from dwf.core.seeds import Noise
from dwf.core.types import Spec
from dwf.methods import Dwf
from dwf.models import ResNet
from dwf.models.inference import attack_precision
from dwf.training.loop import advance
from dwf.training.mover import Mover
from dwf.training.optim import Recipe, Sgd
from dwf.training.plan import Draw

SPEC = Spec(classes=tuple("0123456789"), channels=3, height=32, width=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
EPS, STEP, STEPS, FGSM_EPS = 8 / 255, 2 / 255, 10, 0.05


class OneBatch:
    """A round of a single batch."""

    precision = attack_precision(torch.device("cpu"))

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.draw = Draw(x, y, Noise.rows(0, len(y)), Random(0), 0.0)

    def __len__(self) -> int:
        return 1

    def __iter__(self):  # noqa: ANN204
        yield self.draw


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Algorithm 3 as one would write it down first."""
    model.eval()
    fgsm = x.clone().requires_grad_()
    F.cross_entropy(model(fgsm), y).backward()
    fgsm = (x + FGSM_EPS * fgsm.grad.sign()).clamp(0, 1).detach()
    pgd = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(STEPS):
        pgd = pgd.detach().requires_grad_()
        F.cross_entropy(model(pgd), y).backward()
        pgd = torch.min(torch.max(pgd + STEP * pgd.grad.sign(), x - EPS), x + EPS).clamp(0, 1)
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(torch.cat([x, fgsm, pgd.detach()])), y.repeat(3)).backward()
    optimizer.step()


def contenders(depth: int, width: int, batch: int) -> dict:
    """Both steps on their own copies of the same mixture and the same images."""
    method = Dwf(
        backbone=ResNet(depth=depth, width=width),
        pgd_steps=(STEPS,),
        fgsm_eps=(FGSM_EPS,),
        joint=Recipe(epochs=1, batch=batch, optimizer=Sgd(learning_rate=0.01)),
    )
    torch.manual_seed(0)
    x, y = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))
    plain = method.model(SPEC)
    optimizer = torch.optim.SGD(plain.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    ours = method.model(SPEC).to(memory_format=torch.channels_last)
    phase = method.phases(ours)[-1]
    mover = Mover(phase.learners["all"])
    batches = OneBatch(x.to(memory_format=torch.channels_last), y)

    def our_step() -> None:
        ours.train()
        updates = phase.round(ours, batches)
        while (update := advance(updates, batches.precision, torch.device("cpu"))) is not None:
            mover.take(update, 0.0)

    return {"plain reading": lambda: plain_step(plain, optimizer, x, y), "dwf": our_step}


def peak_of_this_process() -> float:
    """MiB, by the kernel's own high-water mark: getrusage would also count the parent that started this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def peak(name: str, depth: int, width: int, batch: int) -> float:
    """MiB that a fresh process needs for two steps of this kind."""
    command = [
        sys.executable,
        __file__,
        "--only",
        name,
        *(f"--{k}={v}" for k, v in {"depth": depth, "width": width, "batch": batch}.items()),
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="take two steps of one contender and print this process's peak memory in MiB")
    chosen = parser.parse_args()
    if chosen.only:
        step = contenders(chosen.depth, chosen.width, chosen.batch)[chosen.only]
        step()
        step()
        print(peak_of_this_process())
        return
    both = contenders(chosen.depth, chosen.width, chosen.batch)
    seconds = alternate(both, 2 if chosen.quick else chosen.repeats)
    medians = {name: spread(values)["median"] for name, values in seconds.items()}
    figures = {
        "settings": {"experts": 9, "steps": STEPS, "depth": chosen.depth, "width": chosen.width, "batch": chosen.batch},
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "images_per_second": {name: chosen.batch / median for name, median in medians.items()},
        "speedup": medians["plain reading"] / medians["dwf"],
        "peak_mib": {name: peak(name, chosen.depth, chosen.width, chosen.batch) for name in both},
    }
    publish("joint_step", figures, chosen.json)


if __name__ == "__main__":
    main()
