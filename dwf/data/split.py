"""Splits and subsets in which every class keeps its share."""

from __future__ import annotations

import torch
from torch import Tensor

from dwf.core.errors import Refused
from dwf.core.seeds import Noise, derive
from dwf.core.types import Images


def stratified(labels: Tensor, amount: float, seed: int) -> tuple[Tensor, Tensor]:
    """labels (N,) int64 -> (rows to train on, rows to validate on), int64, ascending; together they are all rows.

    `amount`: an int counts the validation images, a float is their share. Each class is in both parts at least once. Raises
    `Refused` for fewer than two classes, a class with one image, and an amount that leaves a part without some class.
    """
    classes, sizes = torch.unique(labels, return_counts=True)
    total, kinds = len(labels), len(classes)
    if kinds < 2:
        raise Refused(f"the training set has {kinds} of at least 2 classes; give a data set with more")
    if int(sizes.min()) < 2:
        raise Refused(f"class {int(classes[sizes.argmin()])} has a single image, and both training and validation need one; "
                      "add images, raise data.limit, or leave the class out")  # fmt: skip
    count = amount if isinstance(amount, int) else min(max(round(amount * total), kinds), total - kinds) if amount > 0 else 0
    if not kinds <= count <= total - kinds:
        raise Refused(f"validation of {count} images out of {total} leaves no image of some class on one side; with {kinds} "
                      f"classes hold out between {kinds} and {total - kinds}")  # fmt: skip
    held = _drawn(labels, _quotas(sizes, count, least=1), derive(seed, "split"))
    return torch.nonzero(~held).flatten(), torch.nonzero(held).flatten()


def subset(images: Images, n: int, seed: int) -> Images:
    """`n` of the images in source order, every class in its share; the same ones for the same n and seed.

    Raises `Refused` for n below 1 or above the number of images.
    """
    if not 1 <= n <= len(images):
        raise Refused(f"{n} images of {images.name} were asked for, but there are {len(images)}; ask for 1 to {len(images)}")
    sizes = torch.unique(images.labels, return_counts=True)[1]
    return images.take(torch.nonzero(_drawn(images.labels, _quotas(sizes, n, least=0), derive(seed, "subset"))).flatten())


def _quotas(sizes: Tensor, count: int, least: int) -> Tensor:
    """How many of each class (K,): in proportion, rounded to sum to `count`, between `least` and size - `least`."""
    exact = sizes.double() * count / sizes.sum()
    quotas = torch.clamp(exact.floor().long(), torch.full_like(sizes, least), sizes - least)
    while (lacking := count - int(quotas.sum())) != 0:  # give to whom most is owed, take from whom least is
        sign = 1 if lacking > 0 else -1
        free = quotas < sizes - least if lacking > 0 else quotas > least
        quotas[torch.where(free, sign * (exact - quotas), -torch.inf).argmax()] += sign
    return quotas


def _drawn(labels: Tensor, quotas: Tensor, seed: int) -> Tensor:
    """A mask (N,) of as many random rows of each present class, in class order, as `quotas` (K,) says."""
    order = Noise.rows(seed, len(labels), labels.device).permutation()
    kinds = torch.unique(labels, return_inverse=True)[1]
    drawn = torch.zeros_like(labels, dtype=torch.bool)
    for kind, quota in enumerate(quotas.tolist()):
        drawn[order[kinds[order] == kind][:quota]] = True
    return drawn
