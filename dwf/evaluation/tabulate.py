"""From per-sample bits to the result file: accuracies with intervals, worst cases, alarms, routing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dwf.core.result import AttackEntry, ClassEntry, DatasetEntry, Environment, FlagEntry, ModelEntry, ProtocolEntry, Result
from dwf.core.types import Threat
from dwf.evaluation import flags
from dwf.evaluation.check import Check, Row
from dwf.evaluation.parts import Arrays
from dwf.evaluation.statistics import Bits, score, worst_cases


class AnyProtocol(Protocol):
    """Frozen settings that list the checks."""

    @property
    def kind(self) -> str:
        """Its name in the registry."""
        ...

    @property
    def threat(self) -> Threat:
        """The headline."""
        ...

    def checks(self) -> Sequence[Check]:
        """What to do with each batch."""
        ...

    def flags(self, bits: Mapping[str, Bits]) -> list[FlagEntry]:
        """Alarms that its rows raise."""
        ...

    def deviations(self) -> dict[str, Any]:
        """Settings that differ from the protocol's own."""
        ...

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """All settings as JSON values."""
        ...


@dataclass(frozen=True)
class Subject:
    """What is evaluated, as the result file describes it."""

    run: str
    model: ModelEntry
    dataset: DatasetEntry
    classes: tuple[str, ...]
    device: str
    versions: tuple[str, str]
    """Of dwf and of torch."""


def tabulate(
    protocol: AnyProtocol,
    rows: Sequence[Row],
    merged: Arrays,
    subject: Subject,
    environment: Environment,
) -> Result:
    """The result file's content, from the merged arrays of all batches."""
    bits = {name.removeprefix("bits/"): array for name, array in merged.items() if name.startswith("bits/")}
    weights = {name.removeprefix("weights/"): array for name, array in merged.items() if name.startswith("weights/")}
    cases = worst_cases(rows, bits, (protocol.threat.norm, protocol.threat.eps))
    every = np.concatenate(list(weights.values())) if weights else None
    worth = [flags.gate_collapse(every), flags.no_specialisation(every)] if every is not None else []
    found = [*protocol.flags(bits), *(flag for flag in [flags.randomized(float(merged["repeat"].max())), *worth] if flag)]
    labels, clean, headline = merged["label"], bits["clean"], cases[0][1]
    return Result(
        run=subject.run,
        protocol=ProtocolEntry(name=protocol.kind, settings=protocol.model_dump(mode="json")),
        dataset=subject.dataset,
        model=subject.model,
        clean=score(clean),
        attacks=tuple(_entry(row, bits[row.name], merged, environment.precision) for row in rows if row.threat.eps > 0),
        worst_case=tuple(case for case, _ in cases),
        flags=tuple(found),
        routing={kind: flags.routing_entry(w) for kind, w in weights.items()} or None,
        per_class=tuple(
            ClassEntry(class_=name, clean=float(clean[labels == c].mean()), worst_case=float(headline[labels == c].mean()))
            for c, name in enumerate(subject.classes)
            if (labels == c).any()
        ),
        environment=environment,
    )


def _entry(row: Row, bits: Bits, merged: Arrays, precision: str) -> AttackEntry:
    """A row of the table. What a row shares with an earlier one is billed there: such a row adds nothing."""
    seconds, forwards, backwards = merged.get(f"bill/{row.name}", np.zeros(3))
    total = score(bits)
    return AttackEntry(
        name=row.name,
        kind="white",
        norm=row.threat.norm,
        eps=row.threat.eps,
        steps=row.steps,
        restarts=row.restarts,
        step_size=row.step_size,
        space="pixel",
        iterate=row.iterate,
        settings=dict(row.settings),
        accuracy=total.accuracy,
        ci95=total.ci95,
        n=total.n,
        seconds=round(float(seconds), 3),
        forwards=float(forwards) / total.n,
        backwards=float(backwards) / total.n,
        precision=f"{precision} generation, float32 verdict",
    )


def examples(merged: Arrays, eps: float) -> Arrays:
    """The first images, with what the attacks made of them."""
    kinds = [name.removeprefix("image/") for name in merged if name.startswith("image/")]
    count = len(merged["image/clean"])
    arrays: Arrays = {"index": merged["index"][:count], "label": merged["label"][:count]}
    for kind in kinds:
        arrays[kind], arrays[f"{kind}_prediction"] = merged[f"image/{kind}"], merged[f"prediction/{kind}"]
    return {**arrays, "fgsm_eps": np.array(eps), "pgd_eps": np.array(eps)}
