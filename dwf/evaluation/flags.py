"""The alarms that fall out of a table: pure functions of its bits and of the gate's weights.

`trust` flags doubt the number, `worth` flags doubt the architecture. The thresholds stand in each function.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dwf.core.result import FlagEntry, RoutingEntry
from dwf.evaluation.statistics import LEVEL, Bits, exceeds, wilson

Weights = NDArray[np.float32]
"""(N, K) the gate's weights, rows sum to 1."""
Fact = NDArray[np.float64]
"""(N,) 0 or 1, NaN where a sample was not asked."""

POINT = 0.01


class Alarms:
    """What was raised, and how many alarms a test at 5 % decided: that bounds the chance of a false one on a sound model."""

    def __init__(self) -> None:
        self.raised: list[FlagEntry] = []
        self.tests = 0

    def test(self, *answers: FlagEntry | None) -> None:
        """Take in one alarm's statistical test: of several pairs, each was asked at `LEVEL` over their number."""
        self.tests += 1
        for entry in answers:
            self.note(entry)

    def note(self, entry: FlagEntry | None) -> None:
        """Take in the answer of a measurement that chance plays no part in. Of one alarm, the first raised stays."""
        if entry is not None and entry.code not in {other.code for other in self.raised}:
            self.raised.append(entry)


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


def no_convergence(before: Bits, after: Bits, names: tuple[str, str], level: float = LEVEL) -> FlagEntry | None:
    """Twice the steps, or more restarts, still cost accuracy: the attack had not finished."""
    if not exceeds(before, after, POINT, level):
        return None
    return FlagEntry(
        code="no_convergence",
        class_="trust",
        value=difference(before, after),
        cause=f"Accuracy still falls from {names[0]} to {names[1]}: the attack has not converged.",
        remedy="Raise the steps and restarts until the accuracy stands still.",
    )


def convergence(short: Bits, long: Bits, restarted: Bits, steps: tuple[int, int], restarts: int) -> list[FlagEntry | None]:
    """Both ways of not having finished: more steps after `short`, more starts after `long`."""
    return [
        no_convergence(short, long, (f"{steps[0]}", f"{steps[1]} steps"), LEVEL / 2),
        no_convergence(long, restarted, ("1", f"{restarts} restarts"), LEVEL / 2),
    ]


def nonmonotone(smaller: Bits, larger: Bits, names: tuple[str, str], level: float = LEVEL) -> FlagEntry | None:
    """A larger ball holds the smaller one, so an attack that finds what is there cannot do worse in it."""
    if not exceeds(larger, smaller, POINT, level):
        return None
    return FlagEntry(
        code="nonmonotone",
        class_="trust",
        value=difference(larger, smaller),
        cause=f"PGD leaves more correct at {names[1]} than at {names[0]}, whose ball lies inside: the gradient misleads it.",
        remedy="Believe the worst case over all radii inside, and attack without the gradient or through a smoothed copy.",
    )


def large_eps_survives(bits: Bits, classes: int, radius: str) -> FlagEntry | None:
    """In half of the pixel range every image can become grey: who is still right was never attacked."""
    chance = 1 / classes
    low, _ = wilson(int(bits.sum()), len(bits))
    if bits.mean() <= chance + 5 * POINT or low <= chance:
        return None
    return FlagEntry(
        code="large_eps_survives",
        class_="trust",
        value=float(bits.mean()),
        cause=f"At {radius}, where any image can be wiped out, still right are {bits.mean():.1%} (chance: {chance:.1%}).",
        remedy="The attack does not reach the model: look for saturated outputs, detached features and rounding of the input.",
    )


def zero_gradient(asked: Fact) -> FlagEntry | None:
    """`asked`: per correct sample, is its input gradient exactly zero?"""
    share = float(np.nanmean(asked)) if np.isfinite(asked).any() else 0.0
    if share <= POINT:
        return None
    return FlagEntry(
        code="zero_gradient",
        class_="trust",
        value=share,
        cause=f"{share:.1%} of the correct images have an input gradient of exactly zero: first-order attacks stand still there.",
        remedy="Look for rounding, detached tensors and saturated outputs; believe Square, transfer and margin losses instead.",
    )


def blackbox_beats_whitebox(name: str, blind: Bits, restarted: Bits, survivors: Bits, level: float = LEVEL) -> FlagEntry | None:
    """Of the survivors of the white-box attacks, an attack that sees less breaks more than as many further restarts."""
    if not survivors.any() or not exceeds(restarted[survivors], blind[survivors], POINT, level):
        return None
    share = difference(restarted[survivors], blind[survivors])
    return FlagEntry(
        code="blackbox_beats_whitebox",
        class_="trust",
        value=share,
        cause=f"'{name}' breaks {share:.1%} more of the white-box attacks' survivors than further restarts of at least its price.",
        remedy="The gradients are masked: count the worst case over all attacks, and attack through a differentiable substitute.",
    )


def softened_transfer(name: str, softened: Bits, restarted: Bits, survivors: Bits, level: float = LEVEL) -> FlagEntry | None:
    """The same for images made on the model's own softened copy."""
    if not survivors.any() or not exceeds(restarted[survivors], softened[survivors], POINT, level):
        return None
    share = difference(restarted[survivors], softened[survivors])
    return FlagEntry(
        code="softened_transfer",
        class_="trust",
        value=share,
        cause=f"Images made on a softened copy ('{name}') break {share:.1%} more of the survivors than further restarts do.",
        remedy="Gate or experts are saturated and hide their gradients: quote the worst case over the softened copies.",
    )


def certificate_broken(proven: Fact, attacked: Sequence[Bits], radius: str) -> FlagEntry | None:
    """An image that was certified at a radius and broken inside it: one counterexample refutes a proof."""
    broken = (proven == 1) & ~np.logical_and.reduce(attacked)
    if not broken.any():
        return None
    return FlagEntry(
        code="certificate_broken",
        class_="trust",
        value=float(broken.mean()),
        cause=f"An attack broke {int(broken.sum())} of the images that were certified at {radius}: a bound is not a bound.",
        remedy="Believe no certified radius of this model; look for a layer whose Lipschitz bound is wrong.",
    )


def randomized(largest: float) -> FlagEntry | None:
    """Two passes over the same images, `largest` logit difference."""
    if largest <= 1e-4:
        return None
    return FlagEntry(
        code="randomized",
        class_="trust",
        value=largest,
        cause="Two forward passes over the same images differ: the model is random, and a plain attack follows one draw of it.",
        remedy="Attack the expectation: protocol.eot of 20 or more, or version rand of autoattack. Quote "
        "worst-permutation (moe, full) where it is listed: it owes nothing to chance.",
    )


def routing_entry(weights: Weights) -> RoutingEntry:
    """The gate on one kind of images."""
    load = np.bincount(weights.argmax(1), minlength=weights.shape[1]) / len(weights)
    return RoutingEntry(
        weights=tuple(float(w) for w in weights.mean(0)),
        entropy=float(_entropy(weights).mean()),
        load=tuple(map(float, load)),
        variation=variation(weights),
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


def variation(weights: Weights) -> float:
    """Mean over images of the total variation between the weights and their mean, in [0, 1]; 0 where all images get the same."""
    return float(0.5 * np.abs(weights - weights.mean(0)).sum(1).mean())


def uniform(weights: Weights) -> bool:
    """Exactly the same for all experts on all images: a uniform gate, which a gate that learns does not hit."""
    return bool((weights == weights[0, 0]).all())


def no_specialisation(weights: Weights) -> FlagEntry | None:
    """The gate gives every image the same weights."""
    spread = variation(weights)
    if spread >= 0.02:
        return None
    return FlagEntry(
        code="no_specialisation",
        class_="worth",
        value=spread,
        cause=f"Weights differ from their mean by {spread:.3f} (total variation): the gate routes nothing, it is a fixed average.",
        remedy="Compare with a uniform gate, or train the gate on a signal that tells the regimes apart.",
    )


def dead_weight(clean: tuple[Bits, Fact], robust: tuple[Bits, Fact], name: str) -> FlagEntry | None:
    """(the mixture, one expert alone): is the expert within the mixture's interval on both, under the same attacks?"""
    lows = [wilson(int(mixture.sum()), len(mixture))[0] for mixture, _ in (clean, robust)]
    alone = [float(expert.mean()) for _, expert in (clean, robust)]
    if alone[0] < lows[0] or alone[1] < lows[1]:
        return None
    return FlagEntry(
        code="dead_weight",
        class_="worth",
        value=alone[1] - float(robust[0].mean()),
        cause=f"'{name}' alone has SA {alone[0]:.1%} and RA {alone[1]:.1%}, within the mixture's intervals or above.",
        remedy="Ship that expert by itself, or train the others on something that it cannot do.",
    )


def _entropy(weights: Weights) -> NDArray[np.float64]:
    entropy: NDArray[np.float64] = -(weights * np.log(np.maximum(weights, 1e-12))).sum(1, dtype=np.float64)
    return entropy
