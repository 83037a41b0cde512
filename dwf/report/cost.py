"""What each run costs: to store, to ask and to train; and what each evaluation cost."""

from __future__ import annotations

from collections.abc import Sequence

from dwf.core.journal import Record
from dwf.core.wording import ABSENT, count, duration, place
from dwf.report.markup import joined, table
from dwf.report.reading import Evaluated, by_run
from dwf.report.training import early, rounds

_RUN = ("Run", "Parameters", "Backbone passes a prediction", "Rounds", "Training images", "Training time", "Trained on")
_EVALUATION = (
    "Run",
    "Evaluation",
    "n",
    "Time of all processes",
    "Forward passes an image",
    "Backward passes an image",
    "Evaluated on",
)

_PLAN = ("Run", "Phase", "Planned", "Spent", "Spent to planned", "Planned on", "Trained on")


def cost(evaluated: Sequence[Evaluated]) -> str | None:
    """One line a run and one line an evaluation."""
    training = table("To store, ask and train", _RUN, map(_run, by_run(evaluated)))
    planned = [row for one in by_run(evaluated) for row in _planned(one)]
    plans = [table("Planned and spent, phase by phase", _PLAN, planned)] if planned else []
    return joined(
        (training, *plans, table("To evaluate; passes are those of the whole model", _EVALUATION, map(_evaluation, evaluated)))
    )


def _run(one: Evaluated) -> list[str]:
    model, environment = one.result.model, one.record["environment"]
    records = [record for phase in rounds(one).values() for record in phase]
    elsewhere = sum(_seconds(record) for record in records if "reused_from" in record)
    trained = [
        count(len(records)),
        count(sum(int(record.get("images", 0)) for record in records)),
        duration(sum(map(_seconds, records))) + (f", {duration(elsewhere)} of it in another run" if elsewhere else ""),
    ]
    where = "not here" if one.foreign else place(environment)
    return [one.run, count(model.parameters), count(model.forward_passes), *(trained if records else [ABSENT] * 3), where]


def _planned(one: Evaluated) -> list[list[str]]:
    """Each phase of a plan beside what its rounds took; a plan for other settings than the run's is left out."""
    if one.plan is None or one.plan.get("settings") != one.record["settings"]:
        return []
    phases = rounds(one)
    spent = {name: sum(map(_seconds, records)) for name, records in phases.items()}
    places = [place(where) for where in (one.plan["environment"], one.record["environment"])]
    pairs = [(phase["name"], phase["seconds"], spent[phase["name"]]) for phase in one.plan["phases"] if phase["name"] in spent]
    pairs = [pair for pair in pairs if pair[1]]  # of no time there is no share
    if not pairs:
        return []
    pairs.append(("all", sum(p for _, p, _ in pairs), sum(s for _, _, s in pairs)))
    said = {name: f"{name}, {done}" for name, records in phases.items() if (done := early(records))}
    named = [(said.get(name, name), plan, took) for name, plan, took in pairs]
    return [[one.run, name, duration(plan), duration(took), f"{took / plan:.2f}", *places] for name, plan, took in named]


def _seconds(record: Record) -> float:
    return float(record.get("seconds", 0.0))


def _evaluation(one: Evaluated) -> list[str]:
    rows, where = one.result.attacks, one.result.environment
    spent = max(where.seconds, sum(entry.seconds for entry in rows))  # who finished it knows of no process before or beside it
    passes = [f"{sum(entry.forwards for entry in rows):,.1f}", f"{sum(entry.backwards for entry in rows):,.1f}"]
    return [one.run, one.name, count(one.result.dataset.n), duration(spent), *passes, place(where.model_dump())]
