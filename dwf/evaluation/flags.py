"""The alarms that fall out of a table: pure functions of its bits and of the gate's weights.

`trust` flags doubt the number, `worth` flags doubt the architecture. The thresholds stand in each function.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dwf.core.result import FlagEntry, RoutingEntry
from dwf.evaluation.statistics import Bits, exceeds

Weights = NDArray[np.float32]
"""(N, K) the gate's weights, rows sum to 1."""

POINT = 0.01


def difference(a: Bits, b: Bits) -> float:
    """Accuracy of a minus accuracy of b."""
    return float(a.mean() - b.mean())


def fgsm_beats_pgd(fgsm: Bits, pgd: Bits) -> FlagEntry | None:
    """One step breaks more than many: the gradient misleads the longer attack."""
    if not exceeds(pgd, fgsm, POINT):
        return None
    return FlagEntry(
        code="fgsm_beats_pgd",
        class_="trust",
        value=difference(pgd, fgsm),
        cause="FGSM leaves fewer samples correct than PGD at the same radius, so PGD does not find what a single step finds.",
        remedy="Attack with smaller steps, more restarts and a transfer from another model before believing the PGD rows.",
    )


def fgsm_overfit(fgsm: Bits, pgd: Bits) -> FlagEntry | None:
    """Catastrophic overfitting (Wong et al., ICLR 2020)."""
    if not exceeds(fgsm, pgd, 15 * POINT):
        return None
    return FlagEntry(
        code="fgsm_overfit",
        class_="trust",
        value=difference(fgsm, pgd),
        cause="FGSM accuracy is far above PGD accuracy at the same radius: the model resists the one-step attack alone.",
        remedy="Train with a random start or with PGD, and do not quote the FGSM rows as robustness.",
    )


def no_convergence(short: Bits, long: Bits, once: Bits, restarted: Bits, names: tuple[str, str, str, str]) -> FlagEntry | None:
    """Twice the steps, or more restarts, still cost accuracy: the attack had not finished."""
    for (before, after), (a, b) in (((names[0], names[1]), (short, long)), ((names[2], names[3]), (once, restarted))):
        if exceeds(a, b, POINT):
            return FlagEntry(
                code="no_convergence",
                class_="trust",
                value=difference(a, b),
                cause=f"Accuracy still falls from {before} to {after}: the attack has not converged.",
                remedy="Raise the steps and restarts until the accuracy stands still.",
            )
    return None


def randomized(largest: float) -> FlagEntry | None:
    """Two passes over the same images, `largest` logit difference."""
    if largest <= 1e-4:
        return None
    return FlagEntry(
        code="randomized",
        class_="trust",
        value=largest,
        cause="Two forward passes over the same images differ: the model is random, and a plain attack follows one draw of it.",
        remedy="Attack the expectation: set protocol.eot to 20 or more.",
    )


def routing_entry(weights: Weights) -> RoutingEntry:
    """The gate on one kind of images."""
    load = np.bincount(weights.argmax(1), minlength=weights.shape[1]) / len(weights)
    return RoutingEntry(
        weights=tuple(float(w) for w in weights.mean(0)), entropy=float(_entropy(weights).mean()), load=tuple(map(float, load))
    )


def gate_collapse(weights: Weights) -> FlagEntry | None:
    """One expert takes it all, or fewer than half of the experts count."""
    mean = weights.mean(0)
    effective = float(np.exp(_entropy(mean[None])[0]))
    if mean.max() <= 0.9 and effective >= len(mean) / 2:
        return None
    return FlagEntry(
        code="gate_collapse",
        class_="worth",
        value=effective,
        cause=f"The gate uses {effective:.1f} experts in effect out of {len(mean)}; the largest mean weight is {mean.max():.2f}.",
        remedy="Compare with the best single expert: the others cost inference time and may add nothing.",
    )


def no_specialisation(weights: Weights) -> FlagEntry | None:
    """The gate gives every image the same weights."""
    spread = float(0.5 * np.abs(weights - weights.mean(0)).sum(1).mean())
    if spread >= 0.02:
        return None
    return FlagEntry(
        code="no_specialisation",
        class_="worth",
        value=spread,
        cause=f"Weights differ from their mean by {spread:.3f} (total variation): the gate routes nothing, it is a fixed average.",
        remedy="Compare with a uniform gate, or train the gate on a signal that tells the regimes apart.",
    )


def _entropy(weights: Weights) -> NDArray[np.float64]:
    entropy: NDArray[np.float64] = -(weights * np.log(np.maximum(weights, 1e-12))).sum(1, dtype=np.float64)
    return entropy
