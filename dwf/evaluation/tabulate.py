"""From per-sample bits to the result file: accuracies with intervals, worst cases, alarms, routing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dwf.core.result import AttackEntry, CertifiedEntry, ClassEntry, DatasetEntry, Environment, ModelEntry, ProtocolEntry, Result
from dwf.core.types import Threat
from dwf.evaluation import flags
from dwf.evaluation.check import Check, Findings, Row, Scope
from dwf.evaluation.flags import Alarms
from dwf.evaluation.parts import Arrays
from dwf.evaluation.statistics import Bits, score, share, worst_cases

POINTS = 40
"""Radii at which the result file states the share of certified images."""


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

    def checks(self, scope: Scope) -> Sequence[Check]:
        """What to do with each batch; raises `Refused` where the model has not what it takes."""
        ...

    def alarms(self, findings: Findings) -> Alarms:
        """Alarms that its rows and facts raise."""
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
    deviations: tuple[float, ...] = ()
    """Standard deviation of each channel, as the model divides by it."""


def tabulate(
    protocol: AnyProtocol,
    rows: Sequence[Row],
    merged: Arrays,
    subject: Subject,
    environment: Environment,
) -> Result:
    """The result file's content, from the merged arrays of all batches."""
    bits, facts, weights = (shelf(merged, kind) for kind in ("bits", "facts", "weights"))
    cases = worst_cases(rows, bits, (protocol.threat.norm, protocol.threat.eps))
    every = np.concatenate(list(weights.values())) if weights else None
    alarms = protocol.alarms(Findings(bits, facts, len(subject.classes)))
    alarms.note(flags.randomized(float(merged["repeat"].max())))
    if every is not None and every.shape[1] >= 2:
        alarms.note(flags.gate_collapse(every))
        if not flags.uniform(every):  # where no gate learns, none has failed
            alarms.note(flags.no_specialisation(every))
    shares = {name: share(asked) for name, asked in facts.items()}
    labels, clean, headline = merged["label"], bits["clean"], cases[0][1]
    return Result(
        run=subject.run,
        protocol=ProtocolEntry(name=protocol.kind, settings=protocol.model_dump(mode="json")),
        dataset=subject.dataset,
        model=subject.model,
        clean=score(clean),
        attacks=tuple(_entry(row, bits[row.name], merged, environment.precision) for row in rows if row.threat.eps > 0),
        worst_case=tuple(case for case, _ in cases),
        flags=tuple(alarms.raised),
        flag_tests=alarms.tests,
        facts={name: value for name, value in shares.items() if value is not None},
        routing={kind: flags.routing_entry(w) for kind, w in weights.items()} or None,
        certified={norm: certificate(radii) for norm, radii in shelf(merged, "radius").items()},
        per_class=tuple(
            ClassEntry(class_=name, clean=float(clean[labels == c].mean()), worst_case=float(headline[labels == c].mean()))
            for c, name in enumerate(subject.classes)
            if (labels == c).any()
        ),
        environment=environment,
    )


def shelf(merged: Arrays, kind: str) -> Arrays:
    """The arrays of one kind, by their own names."""
    return {name.removeprefix(f"{kind}/"): array for name, array in merged.items() if name.startswith(f"{kind}/")}


def certificate(radii: NDArray[np.float64]) -> CertifiedEntry:
    """One norm's certified radii (N,), 0 where an image is wrong or nothing is proven."""
    largest = float(radii.max())
    places = np.linspace(0, largest, POINTS + 1)[1:] if largest > 0 else np.zeros(0)
    shares = [share((radii >= place).astype(np.float64)) for place in places]
    return CertifiedEntry(
        median=float(np.median(radii)),
        largest=largest,
        radii=tuple(map(float, places)),
        shares=tuple(one for one in shares if one is not None),
    )


def _entry(row: Row, bits: Bits, merged: Arrays, precision: str) -> AttackEntry:
    """A row of the table. What a row shares with an earlier one is billed there: such a row adds nothing."""
    seconds, forwards, backwards = merged.get(f"bill/{row.name}", np.zeros(3))
    total = score(bits)
    return AttackEntry(
        name=row.name,
        kind=row.kind,
        norm=row.threat.norm,
        eps=row.threat.eps,
        steps=row.steps,
        restarts=row.restarts,
        step_size=row.step_size,
        space="pixel" if row.threat.scale is None else "normalized",
        iterate=row.iterate,
        settings=dict(row.settings),
        accuracy=total.accuracy,
        ci95=total.ci95,
        n=total.n,
        seconds=round(float(seconds), 3),
        forwards=round(float(forwards) / total.n, 6),  # sums of shares of a pass round by where they began
        backwards=round(float(backwards) / total.n, 6),
        precision=f"{row.precision or precision} generation, float32 verdict",
    )


def examples(merged: Arrays, eps: float) -> Arrays:
    """The first images, with what the attacks made of them."""
    kinds = [name.removeprefix("image/") for name in merged if name.startswith("image/")]
    count = len(merged["image/clean"])
    arrays: Arrays = {"index": merged["index"][:count], "label": merged["label"][:count]}
    for kind in kinds:
        arrays[kind], arrays[f"{kind}_prediction"] = merged[f"image/{kind}"], merged[f"prediction/{kind}"]
    return {**arrays, "fgsm_eps": np.array(eps), "pgd_eps": np.array(eps)}
