"""One joint step of DWF (nine experts, PGD-10, 64 clean images) against a plain reading of the paper's algorithm 3.

The plain reading: fp32, NCHW, `loss.backward()` inside the attack, a loop over the experts. Ours is the method's own generator,
layer by layer and, where torch.compile works, as generated code, which is what `dwf train` uses for runs of this size.
Peak memory is that of a fresh process that takes two steps of one kind.
"""

from __future__ import annotations

import subprocess
import sys

import torch
import torch.nn.functional as F
from harness import alternate, arguments, as_a_script_runs, as_dwf_runs, peak_of_this_process, publish, spread
from steps import EPS, FGSM_EPS, STEP, dwf, images, joint_step, spec
from torch import Tensor, nn

from dwf.models.compiled import can_compile, compile_nets

EXPERTS, STEPS = 9, 10


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
    """The steps on their own copies of the same mixture and the same images."""
    method = dwf(depth, width, EXPERTS, STEPS, batch)
    x, y = images(batch)
    contiguous = x.contiguous()
    torch.manual_seed(0)
    plain = method.model(spec())
    optimizer = torch.optim.SGD(plain.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    ours = {"dwf": None, "dwf, compiled": compile_nets} if can_compile("cpu") else {"dwf": None}
    return {
        "plain reading": as_a_script_runs(lambda: plain_step(plain, optimizer, contiguous, y)),
        **{name: as_dwf_runs(joint_step(method, x, y, hasten)) for name, hasten in ours.items()},
    }


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
    every = contenders(chosen.depth, chosen.width, chosen.batch)
    seconds = alternate(every, 2 if chosen.quick else chosen.repeats)
    medians = {name: spread(values)["median"] for name, values in seconds.items()}
    figures = {
        "settings": {"experts": EXPERTS, "steps": STEPS, "depth": chosen.depth, "width": chosen.width, "batch": chosen.batch},
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "images_per_second": {name: chosen.batch / median for name, median in medians.items()},
        "speedup": {name: medians["plain reading"] / median for name, median in medians.items()},
        "peak_mib": {name: peak(name, chosen.depth, chosen.width, chosen.batch) for name in every},
    }
    publish("joint_step", figures, chosen.json)


if __name__ == "__main__":
    main()
