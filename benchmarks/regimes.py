"""Has each expert of a DWF run learnt its own regime? Every expert by itself, before the joint phase, on the validation split.

Reads what `dwf evaluate RUN --phase EXPERT --split val ...` wrote for each expert; --evaluate does that first. Differences are
paired: a one-sided sign test over the same images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from harness import arguments, publish
from scipy.stats import binomtest

from dwf.verbs import evaluate

SETTINGS = ["protocol.steps=[10,20]", "protocol.final=30", "protocol.restarts=1"]
REGIMES = {
    "benign": ("clean", ("clean",)),
    "fgsm": ("FGSM .05 to .09", tuple(f"fgsm-0.0{n}" for n in range(5, 10))),
    "pgd": ("PGD-20", ("pgd-20",)),
}
"""Kind of expert -> the regime that it should be best in, and the rows that make it."""


def main() -> None:
    """Compare and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--evaluate", action="store_true", help="evaluate the experts first")
    parser.add_argument("--samples", type=int, default=1000)
    chosen = parser.parse_args()
    names = sorted(folder.name for folder in (chosen.run / "phases").iterdir() if folder.name.split("-")[0] in REGIMES)
    if chosen.evaluate:
        for name in names:
            evaluate(
                chosen.run,
                phase=name,
                split="val",
                samples=100 if chosen.quick else chosen.samples,
                overrides=SETTINGS,
                resume=True,
            )
    bits = {name: _bits(chosen.run / "phases" / name / "eval") for name in names}
    figures = {}
    for kind, (regime, rows) in REGIMES.items():
        accuracy = {name: float(np.mean([bits[name][row] for row in rows])) for name in names}
        # Chosen on every other image and compared on the rest: the best of four would flatter itself on the images that chose it.
        chosen_on = {name: float(np.mean([bits[name][row][::2] for row in rows])) for name in names}
        own = max((name for name in names if name.startswith(kind)), key=chosen_on.__getitem__)
        other = max((name for name in names if not name.startswith(kind)), key=chosen_on.__getitem__)
        tested = {name: float(np.mean([bits[name][row][1::2] for row in rows])) for name in names}
        figures[regime] = {
            "accuracy": accuracy,
            "best of its kind": own,
            "best of the others": other,
            "difference on the other half": tested[own] - tested[other],
            "p": _p(bits[own], bits[other], rows),
        }
    publish("regimes", {"run": chosen.run.name, "n": len(next(iter(bits.values()))["clean"]), "regimes": figures}, chosen.json)


def _bits(folder: Path) -> dict[str, np.ndarray]:
    (file,) = (path for path in folder.glob("table3-*.npz") if ".images" not in path.name)
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _p(own: dict[str, np.ndarray], other: dict[str, np.ndarray], rows: tuple[str, ...]) -> float:
    """One-sided sign test over images, on how many rows each expert gets right: rows of one image are no independent evidence.

    With one row this is the exact McNemar test.
    """
    difference = sum(own[row][1::2].astype(int) - other[row][1::2].astype(int) for row in rows)
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    return float(binomtest(better, better + worse, 0.5, alternative="greater").pvalue) if better + worse else 1.0


if __name__ == "__main__":
    main()
