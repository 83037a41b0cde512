"""Peak memory of a joint step of DWF (nine ResNet-18 of width 64, 128 clean images), as it comes and below a cap.

Each is a fresh process that decides as `dwf train` does, counting included, and takes two steps: the second has the optimizer's
memory from its beginning. The peak is the kernel's own high-water mark, PyTorch and its libraries included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import torch
from harness import arguments, peak_of_this_process, publish
from steps import CPU, joint_step, spec

from dwf.core import heap
from dwf.core.settings import size, sized
from dwf.core.types import Images
from dwf.methods import Dwf
from dwf.models import ResNet
from dwf.models.compiled import can_compile, compile_nets
from dwf.models.inference import attack_precision
from dwf.run import Run
from dwf.training.loop import Options
from dwf.training.memory import Measures
from dwf.training.optim import Recipe, Sgd
from dwf.verbs.fitting import measures

STEPS = 2
"""Of PGD: more of them take no more memory."""
PRECISION = attack_precision(CPU)


def peak(cap: str, depth: int, width: int, batch: int, *, compiled: bool) -> dict[str, object]:
    """MiB of this process after two joint steps below `cap` (`none`: as it comes), and what it did for that."""
    recipe = Recipe(epochs=1, batch=batch, optimizer=Sgd(learning_rate=0.01))
    method = Dwf(backbone=ResNet(depth=depth, width=width), pgd_steps=(STEPS,), joint=recipe)
    run = Run(method=method, train=Options(memory=None if cap == "none" else size(cap), compile="always" if compiled else "never"))
    count = 2 * batch
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.arange(count) % 10, spec().classes, torch.arange(count), "noise", "0" * 64)
    chosen = measures(run, images, spec(), PRECISION, None).get("joint")
    if not chosen:
        heap.keep()
    before = peak_of_this_process()

    def below(model: torch.nn.Module) -> None:
        if chosen:
            chosen.apply(model)
        if compiled:
            compile_nets(model)

    x = (pixels[:batch].float() / 255).to(memory_format=torch.channels_last)
    step = joint_step(method, x, images.labels[:batch], below, (chosen or Measures()).parts)
    began = time.process_time()
    step()
    step()
    return {
        "peak_mib": peak_of_this_process(),
        "peak_before_mib": before,
        "processor_seconds": time.process_time() - began,
        "phase": chosen.said() if chosen else "as it comes",
    }


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--caps", nargs="*", default=["none", "4GiB"], help="none, or sizes such as 4GiB")
    parser.add_argument("--only", help="take two steps below this cap in this process")
    parser.add_argument("--compiled", action="store_true", help="with --only: on generated code")
    chosen = parser.parse_args()
    depth, width = (10, 16) if chosen.quick else (chosen.depth, chosen.width)
    if chosen.only:
        print(json.dumps(peak(chosen.only, depth, width, chosen.batch, compiled=chosen.compiled)))
        return
    found = {}
    for cap in chosen.caps:
        sizes = [f"--depth={depth}", f"--width={width}", f"--batch={chosen.batch}"]
        for name, more in {cap: [], f"{cap}, compiled": ["--compiled"]}.items():
            if more and (chosen.quick or not can_compile("cpu")):
                continue
            command = [sys.executable, __file__, "--only", cap, *sizes, *more]
            found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if cap != "none":
                found[name]["below"] = found[name]["peak_mib"] * 2**20 < size(cap)
                print(f"{name}: {sized(found[name]['peak_mib'] * 2**20)}", file=sys.stderr)
    settings = {"experts": 9, "steps": STEPS, "depth": depth, "width": width, "batch": chosen.batch}
    publish("memory", {"settings": settings, "precision": str(PRECISION), "caps": found}, chosen.json)


if __name__ == "__main__":
    main()
