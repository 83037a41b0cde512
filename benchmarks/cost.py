"""Robust accuracy against the cost of training: the table and the figure of docs/cost.md.

From the folder of `dwf sweep sweeps/cost-cifar10-mini.toml`, and from the runs of the results that were judged alike.

A cell is on the front if no other is cheaper and at least as robust, by the estimates: where intervals are wide, a neighbour of the
front may be as good. Every choice among cells is made here, on images that the runs held out.
"""

from __future__ import annotations

from pathlib import Path

from cells import Cell, absent, aligned, beside, cells
from everything import table
from harness import between, with_interval, writer
from matplotlib.figure import Figure

from dwf.core.wording import short_threat

LOOKS = {"several nets a prediction": ("#0072b2", "o"), "one net a prediction": ("#d55e00", "s")}
DOCUMENT = Path(__file__).parent.parent / "docs" / "cost.md"
RESULTS = Path(__file__).parent.parent / "results" / "cifar10-mini"


def front(points: list[tuple[float, float]]) -> list[bool]:
    """Of (cost, worth): whether nothing is as cheap and worth more, or cheaper and worth as much."""
    return [
        not any((cost <= c and worth > w) or (cost < c and worth >= w) for cost, worth in points) for c, w in points
    ]  # fmt: skip


def ordered(sweep: Path) -> list[Cell]:
    """The cells, and the runs of the results beside them that were judged alike, cheapest first."""
    found = sorted([*cells(sweep), *beside(sweep, RESULTS)], key=lambda cell: cell.cost["tflop"])
    for other in found[1:]:
        aligned(found[0], other)
    return found


def tabulated(found: list[Cell]) -> str:
    """Of cells, cheapest first; the number is a cell's in the figure."""
    best = front([(cell.cost["tflop"], cell.robust[0]) for cell in found])
    lines = []
    for number, (cell, leads) in enumerate(zip(found, best, strict=True), 1):
        share, tflop = with_interval(*cell.robust), f"{cell.cost['tflop']:,.0f}"
        asked, right = f"{cell.cost['mflop_a_prediction']:,.0f}", f"{100 * cell.clean.mean():.1f}"
        lines.append([str(number), cell.name, tflop, asked, right, share, "yes" if leads else ""])
    return table(["", "cell", "TFLOP to train", "MFLOP a prediction", "SA", "worst case", "on the front"], lines)


def drawn(found: list[Cell], file: Path) -> None:
    """Cost from left to right on a logarithmic scale; those that ask one net and those that ask several; the front as a line."""
    chart = Figure(figsize=(8, 4.6), layout="constrained")
    axes = chart.subplots()
    best = front([(cell.cost["tflop"], cell.robust[0]) for cell in found])
    steps = sorted((cell.cost["tflop"], 100 * cell.robust[0]) for cell, leads in zip(found, best, strict=True) if leads)
    axes.plot(*zip(*steps, strict=True), color="black", linewidth=1, linestyle=":", label="front")
    for name, (color, marker) in LOOKS.items():
        label = name
        for number, cell in enumerate(found, 1):
            if (cell.experts == 1) is not (name == "one net a prediction"):
                continue
            worst, (low, high) = cell.robust
            reach = [[100 * (worst - low)], [100 * (high - worst)]]
            axes.errorbar(cell.cost["tflop"], 100 * worst, reach, color=color, fmt=marker, label=label, linewidth=0.8)
            side, right = ("left", 5) if number % 2 else ("right", -5)  # neighbours in cost do not write over each other
            at = (cell.cost["tflop"], 100 * worst)
            axes.annotate(str(number), at, xytext=(right, 3), ha=side, textcoords="offset points", fontsize=8)
            label = "_"
    axes.set_xscale("log")
    axes.set_xlabel("TFLOP to train")
    judged = found[0].evaluated[0]
    assert judged.headline is not None
    where = f"{short_threat(judged.headline.norm, judged.headline.eps)}, % of {judged.result.dataset.split} images"
    axes.set_ylabel(f"worst case at {where}")
    axes.legend(frameon=False, loc="lower right")
    chart.savefig(file, dpi=110)


def main() -> None:
    """Print, or write."""
    parser = writer(__doc__.splitlines()[0], DOCUMENT)
    parser.add_argument("sweep", type=Path, help="folder of the sweep")
    chosen = parser.parse_args()
    found = ordered(chosen.sweep)
    text = tabulated(found) + absent(chosen.sweep)
    print(text)
    if chosen.write:
        between(DOCUMENT, text)
        drawn(found, DOCUMENT.with_suffix(".png"))


if __name__ == "__main__":
    main()
