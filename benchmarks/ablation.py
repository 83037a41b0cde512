"""The tables of docs/ablation.md, from the folder of `dwf sweep sweeps/ablation-cifar10-mini.toml`.

Each cell against the first one, paired over the same images, on what stays right under every attack of all its protocols. --write
puts the tables into the document, between its marks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cells import Cell, absent, aligned, cells
from everything import table
from harness import between, with_interval, writer

from dwf.report.paired import Paired, holm, paired

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "ablation.md"
RESULTS = ROOT / "results" / "ablation-cifar10-mini"


def tables(sweep: Path = RESULTS) -> str:
    """What stands in the document between its marks."""
    return rows(cells(sweep)) + absent(sweep)


def rows(found: list[Cell]) -> str:
    """Two tables: what each cell keeps, and what its gate and its experts do."""
    first, *others = found
    tests = [paired(*aligned(first, cell)) for cell in others]
    said = [_difference(test, p) for test, p in zip(tests, holm([test.p for test in tests]), strict=True)]
    kept = [[cell.name, *_kept(cell), *more] for cell, more in zip(found, [["", ""], *said], strict=True)]
    gates = [[cell.name, *_gate(cell), *_alone(cell), _alarms(cell)] for cell in found]
    parts = ["effective experts", "largest mean weight", "to the mean weights", "clean to PGD", "the mixture", "best expert alone"]
    return "\n".join((
        table(["cell", "M parameters", "TFLOP to train", "SA", "worst case", f"against `{first.name}`", "Holm p"], kept),
        table(["cell", *parts, "alarms"], gates),
    ))  # fmt: skip


def _kept(cell: Cell) -> list[str]:
    worst = with_interval(*cell.robust)
    return [f"{cell.cost['parameters'] / 1e6:.2f}", f"{cell.cost['tflop']:,.0f}", f"{100 * cell.clean.mean():.1f}", worst]


def _difference(test: Paired, p: float) -> list[str]:
    return [f"{100 * test.difference:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]", f"{p:.2g}"]


def _gate(cell: Cell) -> list[str]:
    """Effective experts by the mean weights on clean images; how far the mean weights of clean and of PGD images lie apart."""
    routing = next((one.result.routing for one in cell.evaluated if one.result.routing), None)
    if routing is None:
        return [""] * 4
    clean, attacked = routing["clean"], routing["pgd"]
    apart = 0.5 * sum(abs(a - b) for a, b in zip(clean.weights, attacked.weights, strict=True))
    variation = "" if clean.variation is None else f"{clean.variation:.3f}"
    return [f"{clean.effective:.1f} of {len(clean.weights)}", f"{max(clean.weights):.2f}", variation, f"{apart:.3f}"]


def _alone(cell: Cell) -> list[str]:
    """SA and what stays right under PGD and APGD-CE, of the mixture and of the expert with the largest sum of both alone."""
    for one in cell.judged.values():
        facts = one.one.result.facts
        names = [name.removesuffix("/robust") for name in facts if name.endswith("/robust")]
        if len(names) > 1:
            best = max(names, key=lambda name: facts[f"{name}/clean"].value + facts[f"{name}/robust"].value)
            met = np.logical_and.reduce([bits for row, bits in one.bits.items() if row.name in ("clean", "pgd", "apgd-ce")])
            alone = f"{best} {100 * facts[f'{best}/clean'].value:.1f}, {100 * facts[f'{best}/robust'].value:.1f}"
            return [f"{100 * cell.clean.mean():.1f}, {100 * met.mean():.1f}", alone]
    return ["", ""]


def _alarms(cell: Cell) -> str:
    codes = dict.fromkeys(flag.code for one in cell.evaluated for flag in one.result.flags)
    return ", ".join(f"`{code}`" for code in codes) or "none"


def main() -> None:
    """Print, or write."""
    parser = writer(__doc__.splitlines()[0], DOCUMENT)
    parser.add_argument("sweep", type=Path, nargs="?", default=RESULTS, help="folder of the sweep, if not the committed one")
    chosen = parser.parse_args()
    text = tables(chosen.sweep)
    print(text)
    if chosen.write:
        between(DOCUMENT, text)


if __name__ == "__main__":
    main()
