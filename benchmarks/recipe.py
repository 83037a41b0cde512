"""Is a cheaper recipe as robust? Runs of both over the same seeds, paired by image on the worst case of all their evaluations.

Two intervals of the mean difference over seeds, because two kinds of luck are in it: that of the images, by resampling them with
all the verdicts on them; and that of training, by Student's t over the seeds' differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from cells import Cell, aligned, cell
from harness import publish, reader
from numpy.typing import NDArray
from scipy.stats import t

RESAMPLES = 10_000


def duel(ours: Sequence[Cell], theirs: Sequence[Cell]) -> dict[str, Any]:
    """Ours minus theirs, in points; seeds are paired in the order in which they are named."""
    if len(ours) != len(theirs):
        raise SystemExit(f"{len(ours)} runs against {len(theirs)}; name as many seeds of the one recipe as of the other")
    for other in ours[1:]:
        aligned(ours[0], other)
    bits = [aligned(a, b) for a, b in zip(ours, theirs, strict=True)]
    each = np.stack([a.astype(float) - b for a, b in bits])
    return {
        "points_by_seed": [round(100 * float(d), 2) for d in each.mean(1)],
        "points": 100 * float(each.mean()),
        "interval_by_images": [100 * bound for bound in by_images(each)],
        "interval_by_seeds": (found := by_seeds(each.mean(1).tolist())) and [100 * bound for bound in found],
    }


def by_images(each: NDArray[np.float64]) -> tuple[float, float]:
    """(seeds, images) differences -> 95 % percentile interval of their mean over images that are drawn again."""
    random, means = np.random.default_rng(0), each.mean(0)
    drawn = means[random.integers(0, len(means), (RESAMPLES, len(means)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def by_seeds(differences: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of their mean; None of a single one, which says nothing of others."""
    if len(differences) < 2:
        return None
    reach = float(t.ppf(0.975, len(differences) - 1)) * stdev(differences) / len(differences) ** 0.5
    return fmean(differences) - reach, fmean(differences) + reach


def described(found: Sequence[Cell]) -> dict[str, Any]:
    """What a recipe costs and keeps, over its seeds."""
    worst, clean = ([100 * float(bits.mean()) for bits in each] for each in ([c.right for c in found], [c.clean for c in found]))
    spread = stdev(worst) if len(worst) > 1 else None
    return {"tflop": fmean(one.cost["tflop"] for one in found), "sa": fmean(clean), "worst_case": fmean(worst), "deviation": spread}


def main() -> None:
    """Compare and publish."""
    parser = reader(__doc__.splitlines()[0])
    parser.add_argument("--ours", nargs="+", type=Path, required=True, metavar="RUN")
    for name in ("against", "equal"):
        parser.add_argument(f"--{name}", nargs="+", type=Path, default=[], required=name == "against", metavar="RUN")
    parser.add_argument("--protocol", nargs="*", help="names of evaluations, such as table3; all that the runs have if not given")
    chosen = parser.parse_args()
    recipes = {name: [cell(run, chosen.protocol) for run in getattr(chosen, name)] for name in ("ours", "against", "equal")}
    recipes = {name: found for name, found in recipes.items() if found}
    figures: dict[str, Any] = {"n": len(recipes["ours"][0].right)}
    figures["recipes"] = {name: described(found) for name, found in recipes.items()}
    figures["times_cheaper"] = figures["recipes"]["against"]["tflop"] / figures["recipes"]["ours"]["tflop"]
    for name in recipes:
        if name != "ours":
            figures[f"ours_minus_{name}"] = duel(recipes["ours"], recipes[name])
    publish("recipe", figures, chosen.json)


if __name__ == "__main__":
    main()
