"""The result file `eval/<protocol>[-<tag>].json`: what evaluation writes and the report reads.

Accuracies are fractions in [0, 1]; `ci95` is a 95 % Wilson interval. Beside the file lie `<name>.npz` (per-sample bits, one
boolean array (N,) per row, and `index`) and `<name>.images.npz` (a few images with their adversarial versions).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dwf.core.errors import Refused
from dwf.core.settings import Settings

SCHEMA = 1
RUN_SCHEMA = 1
"""Of run.json, which training writes and every other verb reads."""
Interval = tuple[float, float]


class ProtocolEntry(Settings):
    """Which protocol, with every setting."""

    name: str
    settings: dict[str, Any]


class DatasetEntry(Settings):
    """Which images."""

    name: str
    split: str
    n: int
    indices: str
    """Which images: "all", or how the subset was drawn; the rows themselves are `index` in the npz."""
    sha256: str


class ModelEntry(Settings):
    """What was attacked, and what it costs."""

    method: str
    settings: dict[str, Any]
    parameters: int
    forward_passes: int
    """Backbone passes that one prediction costs: 9 for nine experts that are all active."""
    overridden: dict[str, Any] = Field(default_factory=dict)
    """Settings of the method, by path, that the evaluation changed after training: `settings` holds their new values."""


class Score(Settings):
    """An accuracy never travels alone."""

    accuracy: float
    ci95: Interval
    n: int


class AttackEntry(Score):
    """One row of a protocol."""

    name: str
    kind: Literal["white", "black", "transfer"]
    norm: str
    eps: float
    steps: int
    restarts: int
    step_size: float
    space: Literal["pixel", "normalized"]
    iterate: Literal["last", "worst"]
    """`last`: the row as papers report it. `worst`: the last iterate or the one that the attacked copy was most wrong about."""
    settings: dict[str, Any]
    seconds: float
    forwards: float
    """Forward passes an image that this row added: work shared with an earlier row is counted there."""
    backwards: float
    precision: str


class WorstCase(Settings):
    """Per threat: a sample is robust only if every attack of this norm inside this radius failed on it."""

    norm: str
    eps: float
    accuracy: float
    ci95: Interval
    attacks: tuple[str, ...]
    space: Literal["pixel", "normalized"] = "pixel"
    """Where `eps` is a length: among pixels, or after each channel was divided by its standard deviation."""


class Share(Settings):
    """A measured share of the samples that were asked."""

    value: float
    ci95: Interval
    n: int


class FlagEntry(Settings):
    """An alarm: `trust` doubts the number, `worth` doubts the architecture."""

    code: str
    class_: Literal["trust", "worth"]
    value: float
    cause: str
    remedy: str


class RoutingEntry(Settings):
    """The gate on one kind of images."""

    weights: tuple[float, ...]
    """Mean weight of each expert."""
    entropy: float
    """Mean over images of the weights' entropy, in nats."""
    load: tuple[float, ...]
    """Share of images on which each expert has the largest weight."""
    variation: float | None = None
    """Mean over images of the total variation between the weights and their mean; None in older files."""

    @property
    def effective(self) -> float:
        """How many experts count: the exponential of the mean weights' entropy."""
        return exp(-sum(weight * log(weight) for weight in self.weights if weight > 0))


class CertifiedEntry(Settings):
    """What is proven in one norm: an image counts at a radius if it is right and no move that short can change the answer."""

    median: float
    """Radius, over all images; a wrong image's is 0."""
    largest: float
    """Radius of any image; 0 where nothing at all is proven."""
    radii: tuple[float, ...]
    """Evenly spaced up to the largest."""
    shares: tuple[Share, ...]
    """Of the images that are certified at each of them."""


class ClassEntry(Settings):
    """One class: accuracy on clean images and under the headline worst case."""

    class_: str
    clean: float
    worst_case: float


class Environment(Settings):
    """Where, when and with what."""

    dwf: str
    code: str | None = None
    """Checksum of the code that attacks; files from before 2026-11-27 do not say."""
    torch: str
    device: str
    threads: int
    precision: str
    compiled: bool = False
    """Whether attacks ran on generated code; files from before 2026-11-21 do not say."""
    seed: int
    started: str
    seconds: float
    """Of the process that finished it; where one was interrupted before, the rows hold the rest."""


class Result(Settings):
    """One evaluation of one run."""

    schema_: int = SCHEMA
    run: str
    protocol: ProtocolEntry
    dataset: DatasetEntry
    model: ModelEntry
    clean: Score
    attacks: tuple[AttackEntry, ...]
    worst_case: tuple[WorstCase, ...]
    """Headline first."""
    flags: tuple[FlagEntry, ...]
    flag_tests: int = 0
    """Alarms that were asked by a test at 5 %: a sound model raises a false one with a chance of at most 5 % times this."""
    facts: dict[str, Share] = Field(default_factory=dict)
    """Other findings by name, such as `rerouted`, `zero_gradient`, `oracle/clean`."""
    certified: dict[str, CertifiedEntry] = Field(default_factory=dict)
    """By norm; empty where nobody asked."""
    routing: dict[str, RoutingEntry] | None
    """Keys clean, fgsm, pgd; None for a model without a gate."""
    per_class: tuple[ClassEntry, ...]
    environment: Environment


_NAMES = {"schema_": "schema", "class_": "class"}
"""Python's reserved or occupied names, as they stand in the file."""


def called(run: str, overridden: Mapping[str, Any]) -> str:
    """A run under settings that its training did not have: `mine (alpha 0.9)`."""
    return f"{run} ({', '.join(f'{key} {value}' for key, value in sorted(overridden.items()))})" if overridden else run


def to_json(result: Result) -> dict[str, Any]:
    """The result as the file holds it."""
    data: dict[str, Any] = _renamed(result.model_dump(mode="json"), _NAMES)
    return data


def from_json(data: Any, *, where: str | Path) -> Result:
    """A result read back; raises `Refused` for another schema or a file that is no result."""
    if not isinstance(data, dict) or "schema" not in data:
        raise Refused(f"{where} is not a result file of dwf; evaluate the run again")
    if data["schema"] != SCHEMA:
        raise Refused(f"{where} has schema {data['schema']}, this version reads {SCHEMA}; evaluate the run again")
    result = Result.read(_renamed(data, {new: old for old, new in _NAMES.items()}), where=str(where))
    if all(entry.space == "pixel" for entry in result.attacks):
        return result
    spaces = {entry.name: entry.space for entry in result.attacks}  # older files say it of rows alone
    cases = [case.model_copy(update={"space": spaces.get(next(iter(case.attacks), ""), case.space)}) for case in result.worst_case]
    return result.model_copy(update={"worst_case": tuple(cases)})


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(k, k): _renamed(v, names) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(v, names) for v in value]
    return value
