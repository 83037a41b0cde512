"""What a second process brings: a joint step of DWF on two gloo ranks under torchrun against one rank, of one thread each.

Both do the same global batch. Beside it what docs/scale.md computes with: a message's latency and bytes a second when tensors are
averaged over the ranks, and the bytes that a step of the method averages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from harness import alternate, arguments, publish, spread
from steps import CPU, dwf, images, joint_step, spec

from dwf.core import heap, ranks
from dwf.models.compiled import can_compile, compile_nets

SMALL, LARGE = 1, 8 * 2**20
"""Numbers in a message that is all latency, and in one that is all bandwidth."""
RANKS = 2


def measured(depth: int, width: int, experts: int, batch: int, repeats: int, *, compiled: bool) -> dict[str, float]:
    """Of this process, one of `ranks.world()`: seconds of a joint step on a global batch, and of averaging two messages."""
    torch.set_num_threads(1)
    heap.keep()
    method = dwf(depth, width, experts, 3, batch)
    x, y = images(batch)
    learn = joint_step(method, ranks.share(x), ranks.share(y), compile_nets if compiled else None)
    statistics = [torch.zeros(buffer.shape) for buffer in method.model(spec()).buffers() if buffer.is_floating_point()]

    def step() -> None:
        learn()
        ranks.average(statistics)  # as the loop does after every step

    found = {"step": spread(alternate({"": step}, repeats, warmup=2)[""])["median"]}
    for name, count in (("small", SMALL), ("large", LARGE)):
        message, times = torch.zeros(count), []
        for _ in range(10):
            ranks.barrier()
            began = time.perf_counter()
            ranks.average([message])
            times.append(time.perf_counter() - began)
        found[name] = min(times)
    return found


def launched(world: int, words: list[str]) -> dict[str, float]:
    """The same file under torchrun; what rank 0 found."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "found.json"
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *launch, __file__, "--into", str(answer), *words], check=True, env=environment)
        found: dict[str, float] = json.loads(answer.read_text())
        return found


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--into", type=Path, help="be one of the ranks and write there")
    chosen = parser.parse_args()
    depth, width, experts, batch = 10, 16, 5, 128
    if chosen.quick:
        width, experts, batch, chosen.turns = 4, 2, 16, 1
    if chosen.into:
        with ranks.together(CPU):
            found = measured(depth, width, experts, batch, chosen.repeats, compiled=not chosen.quick and can_compile("cpu"))
            if ranks.rank() == 0:
                chosen.into.write_text(json.dumps(found))
        return
    words = [f"--repeats={2 if chosen.quick else chosen.repeats}", *(["--quick"] if chosen.quick else [])]
    turns = [(launched(1, words), launched(RANKS, words)) for _ in range(chosen.turns)]
    times = sorted(one["step"] / two["step"] for one, two in turns)
    two = min((two for _, two in turns), key=lambda each: each["large"])
    model = dwf(depth, width, experts, 3, batch).model(spec())
    floats = [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]
    figures = {
        "settings": {"depth": depth, "width": width, "experts": experts, "pgd_steps": 3, "global_batch": batch, "ranks": RANKS},
        "seconds_of_a_step": {"1": [one["step"] for one, _ in turns], str(RANKS): [two["step"] for _, two in turns]},
        "times": times[len(times) // 2],
        "latency": two["small"],
        "bytes_per_second": 4 * LARGE / two["large"],
        "bytes_of_a_step": 4 * sum(tensor.numel() for tensor in floats),
    }
    publish("ranks", figures, chosen.json)


if __name__ == "__main__":
    main()
