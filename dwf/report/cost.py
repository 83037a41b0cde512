"""What each run costs: to store, to ask, to train, to evaluate."""

from __future__ import annotations

from collections.abc import Sequence

from dwf.report.markup import table
from dwf.report.reading import Evaluated
from dwf.report.training import rounds
from dwf.report.wording import ABSENT, count, duration

_HEADER = (
    "Run",
    "Parameters",
    "Backbone passes a prediction",
    "Training rounds",
    "Training images",
    "Training time",
    "Trained on",
    "Evaluation",
    "Evaluation time",
    "Forward passes an image",
    "Backward passes an image",
    "Evaluated on",
)


def cost(evaluated: Sequence[Evaluated]) -> str | None:
    """One line an evaluation."""
    return table(
        "Cost. Times are wall-clock on the named device; passes are those of the whole model", _HEADER, map(_row, evaluated)
    )


def _row(one: Evaluated) -> list[str]:
    result, records = one.result, [record for phase in rounds(one).values() for record in phase]
    trained, where = one.record["environment"], result.environment
    seconds = sum(float(record.get("seconds", 0.0)) for record in records)
    rows = result.attacks
    return [
        one.run,
        count(result.model.parameters),
        count(result.model.forward_passes),
        count(len(records)) if records else ABSENT,
        count(sum(int(record.get("images", 0)) for record in records)) if records else ABSENT,
        duration(seconds) if records else ABSENT,
        _place(trained.get("device", "?"), trained.get("threads", "?"), trained.get("precision", "?")),
        f"{one.name}, n = {count(result.dataset.n)}",
        duration(where.seconds),
        f"{sum(entry.forwards for entry in rows):,.1f}",
        f"{sum(entry.backwards for entry in rows):,.1f}",
        _place(where.device, where.threads, where.precision),
    ]


def _place(device: object, threads: object, precision: object) -> str:
    return f"{device}, {threads} threads, {precision}"
