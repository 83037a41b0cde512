"""What every protocol is made of: a check attacks a batch and returns, per row, which samples are still right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dwf.core.types import Batch, Threat
from dwf.evaluation.victim import Victim


@dataclass(frozen=True)
class Row:
    """One line of a protocol's table."""

    name: str
    threat: Threat
    steps: int
    restarts: int
    step_size: float
    iterate: Literal["last", "worst"] = "last"
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["white", "black", "transfer"] = "white"
    """How much of the model the attack sees: all of it, its outputs, or only another model."""
    precision: str | None = None
    """In which the images are made; None: in that of the victim's copy."""


@dataclass(frozen=True)
class Outcome:
    """What a check found out about one batch."""

    bits: Mapping[str, Tensor]
    """Per row (B,) bool: still classified correctly."""
    images: Mapping[str, Tensor] = field(default_factory=dict)
    """Adversarial images (B, C, H, W) of general interest, by kind: `fgsm`, `pgd`."""
    facts: Mapping[str, Tensor] = field(default_factory=dict)
    """Other findings (B,), 0 or 1 where the sample was asked and NaN where it was not; a fact's value is their mean."""
    radii: Mapping[str, Tensor] = field(default_factory=dict)
    """By norm, (B,): how far an image may provably move before its answer changes; 0 where that is wrong or nothing is proven."""


class Standing:
    """Who is still right in a batch, after the checks so far."""

    def __init__(self, batch: Batch) -> None:
        self._everyone = torch.ones_like(batch.y, dtype=torch.bool)
        self._rows: dict[str, tuple[Threat, Tensor]] = {}

    def add(self, rows: Sequence[Row], bits: Mapping[str, Tensor]) -> None:
        """Take in what a check found."""
        self._rows |= {row.name: (row.threat, bits[row.name]) for row in rows}

    def under(self, threat: Threat) -> Tensor:
        """(B,) bool: right on the image itself and after every attack so far of this norm inside this radius."""
        inside = [bits for other, bits in self._rows.values() if other.eps == 0 or _within(other, threat)]
        return torch.stack([self._everyone, *inside]).all(0)

    def asked(self, threat: Threat, after: Sequence[str] | None) -> Tensor:
        """(B,) bool: whom a check of `threat` attacks: survivors of the rows `after`, or of all so far for None."""
        return self.under(threat) if after is None else self.after(after)

    def after(self, names: Sequence[str]) -> Tensor:
        """(B,) bool: right on the image itself and after the rows `names`."""
        clean = [bits for threat, bits in self._rows.values() if threat.eps == 0]
        return torch.stack([self._everyone, *clean, *(self._rows[name][1] for name in names)]).all(0)


def _within(inner: Threat, outer: Threat) -> bool:
    return inner.norm == outer.norm and inner.scale == outer.scale and inner.eps <= outer.eps


class Check(Protocol):
    """One or more rows of a protocol from one piece of work."""

    def rows(self) -> Sequence[Row]:
        """What `__call__` returns bits for; none for a check that finds facts alone."""
        ...

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """Attack one batch. A batch of fixed size is the unit of sharding, a check of a batch that of resume."""
        ...


@dataclass(frozen=True)
class Scope:
    """What a protocol may ask of the model at hand."""

    classes: int
    pixels: int
    """C x H x W."""
    experts: int = 0
    """Experts behind its routing; 0 for a model without."""
    every: float = 1.0
    """What asking all experts costs, in passes of the model (`Victim.shares`)."""
    permutations: tuple[tuple[int, ...], ...] = ()
    """Of a model that switches between them, to be held one by one."""
    surrogates: tuple[str, ...] = ()
    """Names of the other models that attacks may be transferred from."""
    deviations: tuple[float, ...] = ()
    """Standard deviation of each channel, for attacks in the standardised space."""


@dataclass(frozen=True)
class Findings:
    """A whole evaluation, for the alarms: numpy arrays over all samples."""

    bits: Mapping[str, Any]
    """Row -> (N,) bool."""
    facts: Mapping[str, Any]
    """Fact -> (N,) float, NaN where a sample was not asked."""
    classes: int
