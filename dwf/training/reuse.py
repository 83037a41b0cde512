"""The same expert is not trained twice: what another run's phase made, where everything that decides it is the same.

A finished phase keeps what decided it in decided.json: the first weights of its subject (behind which lie the phases that came
before), settings, data, seed, precision, device, torch and our own code. Two phases are the same when all of that is equal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dwf.core.fingerprint import fingerprint
from dwf.training.plan import Phase

WEIGHTS, DECIDED = "model.safetensors", "decided.json"
"""Of a finished phase."""
NOBODY = "{}"
"""Stands in decided.json where nobody may take the phase over."""


def checksum(decided: str) -> str:
    """SHA-256 of what decides a phase: a phase in progress keeps this alone."""
    return hashlib.sha256(decided.encode()).hexdigest()


class Twin(NamedTuple):
    """A finished phase that is the same as ours."""

    folder: Path
    name: str
    """Which run's it is: `some-run/phases/fgsm-1`."""


@dataclass(frozen=True)
class Shelf:
    """Where finished phases stand, and what a phase of ours must have been decided by to be one of them."""

    circumstances: Mapping[str, Any] = field(default_factory=dict)
    """JSON: what decides every phase of this run alike."""
    method: Mapping[str, Any] = field(default_factory=dict)
    """JSON: the method's settings, of which a phase may ignore some (`Phase.ignores`)."""
    folder: Path | None = None
    """Of run folders; None takes over nothing."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Phase -> pieces that a memory cap cuts its batches into; what else a cap does changes a result by rounding only."""

    def decided(self, phase: Phase) -> str:
        """Everything that decides what `phase` makes, as JSON. Its subject must still hold its first weights."""
        settings = {name: value for name, value in self.method.items() if name not in phase.ignores}
        first = fingerprint(phase.subject)
        everything = {"phase": phase.name, "first weights": first, "method": settings, **self.circumstances}
        if (parts := self.parts.get(phase.name, 1)) > 1:
            everything["parts"] = parts
        return json.dumps(everything, indent=1, sort_keys=True)

    def find(self, phase: str, decided: str) -> Twin | None:
        """A finished phase of that name that the same decided; None where there is none."""
        if self.folder is None:
            return None
        files = sorted(self.folder.glob(f"*/phases/{phase}/{DECIDED}"))
        kept = (file for file in files if (file.parent / WEIGHTS).exists())  # somebody may have thrown them away
        found = next((file.parent for file in kept if file.read_text() == decided), None)
        return None if found is None else Twin(found, found.relative_to(self.folder).as_posix())
