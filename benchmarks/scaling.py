"""How the cost of a joint step and of an attack step grows: with experts, batch, width, image size and threads.

Random images; nets compiled where `dwf train` would. A step's seconds, and those of a unit: an expert, an image of the batch, or
1e9 multiply-adds where width or size grow. `evenness` is the largest of a unit over the smallest: 1 where cost grows in proportion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from harness import alternate, arguments, publish, spread
from steps import Hasten, attack_step, dwf, images, joint_step, spec

from dwf.core import heap
from dwf.models import ResNet
from dwf.models.compiled import can_compile, compile_nets
from dwf.models.cost import cost

DEPTH, WIDTH, BATCH, STEPS = 10, 16, 64, 3
EXPERTS, BATCHES, WIDTHS, SIZES, THREADS = (1, 2, 4, 8, 16), (16, 32, 64, 128, 256), (16, 32, 64), (32, 64, 128, 224), (1, 2)
Timed = Mapping[str, Callable[[], object]]
Rows = dict[str, dict[str, float]]


def medians(contenders: Timed, repeats: int) -> dict[str, float]:
    """Seconds of each."""
    return {name: spread(values)["median"] for name, values in alternate(contenders, repeats, warmup=2).items()}


def per(seconds: Mapping[str, float], units: Mapping[str, float]) -> Rows:
    """Seconds, and seconds for each unit."""
    return {name: {"seconds": taken, "seconds_a_unit": taken / units[name]} for name, taken in seconds.items()}


def evenness(rows: Rows) -> float:
    """The largest cost of a unit over the smallest."""
    each = [row["seconds_a_unit"] for row in rows.values()]
    return max(each) / min(each)


def by_experts(repeats: int, most: int, hasten: Hasten | None) -> Rows:
    """A joint step; the unit is an expert."""
    x, y = images(BATCH)
    counts = [count for count in EXPERTS if count <= most]
    steps = {str(n): joint_step(dwf(DEPTH, WIDTH, n, STEPS, BATCH), x, y, hasten) for n in counts}
    return per(medians(steps, repeats), {str(n): n for n in counts})


def by_batch(repeats: int, most: int, hasten: Hasten | None) -> Rows:
    """An attack step on one net; the unit is an image."""
    net, sizes = ResNet(depth=DEPTH, width=WIDTH)(spec()), [size for size in BATCHES if size <= most]
    steps = {str(size): attack_step(net, *images(size), hasten) for size in sizes}
    return per(medians(steps, repeats), {str(size): size for size in sizes})


def by_operations(nets: Mapping[str, tuple[ResNet, int]], repeats: int, hasten: Hasten | None) -> Rows:
    """An attack step on nets (backbone, image size) that differ; the unit is a multiply-add of the forward pass, times 1e9."""
    steps, work = {}, {}
    for name, (net, size) in nets.items():
        x, y = images(max(1, BATCH * 32 * 32 // size**2), size)
        steps[name] = attack_step(net(spec(size)), x, y, hasten)
        work[name] = cost(net, spec(size)).multiply_adds * len(y) / 1e9
    return per(medians(steps, repeats), work)


def by_threads(repeats: int, hasten: Hasten | None) -> dict[str, float]:
    """Images a second of a joint step by threads, and how many times the first the last is."""
    x, y = images(BATCH)
    speeds, usual = {}, torch.get_num_threads()
    for threads in THREADS:
        if threads > usual:
            break
        torch.set_num_threads(threads)
        torch.compiler.reset()
        step = {"": joint_step(dwf(DEPTH, WIDTH, 4, STEPS, BATCH), x, y, hasten)}
        speeds[str(threads)] = BATCH / medians(step, repeats)[""]
    torch.set_num_threads(usual)
    found = list(speeds.values())
    return {**speeds, "times": found[-1] / found[0]}


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--eager", action="store_true", help="do not compile")
    chosen = parser.parse_args()
    heap.keep()
    repeats, few = (2, 4) if chosen.quick else (chosen.repeats, 10**6)
    hasten = compile_nets if not chosen.eager and not chosen.quick and can_compile("cpu") else None
    sizes = SIZES[:2] if chosen.quick else SIZES
    narrow = partial(ResNet, depth=DEPTH)
    growth = {
        "experts": by_experts(repeats, few, hasten),
        "batch": by_batch(repeats, 16 * few, hasten),
        "width": by_operations({str(w): (narrow(width=w), 32) for w in WIDTHS}, repeats, hasten),
        "image_size": by_operations({str(s): (narrow(width=WIDTH), s) for s in sizes}, repeats, hasten),
    }
    figures = {
        "settings": {"depth": DEPTH, "width": WIDTH, "batch": BATCH, "pgd_steps": STEPS, "compiled": hasten is not None},
        "evenness": {name: evenness(rows) for name, rows in growth.items()},
        **growth,
        "threads": by_threads(repeats, hasten),
    }
    publish("scaling", figures, chosen.json)


if __name__ == "__main__":
    main()
