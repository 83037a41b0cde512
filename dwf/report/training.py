"""How each run was trained: loss and validation accuracy, phase by phase. Every phase is drawn equally wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Chart

from dwf.core.journal import Record
from dwf.core.wording import ABSENT, duration, listed, percent, plural, shortened
from dwf.report.drawing import INK, RULE, draw, legend, look, plain
from dwf.report.markup import figure, joined, table
from dwf.report.reading import Evaluated, by_run

_VALIDATION = {"sa": "clean (SA)", "fgsm": "FGSM", "ra": "PGD (RA)"}
_OWN = ("event", "phase", "round", "rounds", "seconds", "images", "learning_rate", "loss", "validation", "best", "stopped")
Phases = Mapping[str, Sequence[Record]]


def training(evaluated: Sequence[Evaluated]) -> str | None:
    """One chart for each run that has a journal with rounds."""
    found = [(one, rounds(one)) for one in by_run(evaluated)]
    return joined(_training(one, phases, i) for i, (one, phases) in enumerate(found) if phases) or None


def rounds(one: Evaluated) -> Phases:
    """The records of rounds by phase, in the order in which the phases were begun."""
    phases: dict[str, list[Record]] = {}
    for record in one.journal:
        if record.get("event") in ("phase", "round") and "phase" in record:
            phases.setdefault(str(record["phase"]), [])
            if record["event"] == "round":
                phases[str(record["phase"])].append(record)
    return {name: records for name, records in phases.items() if records}


def _training(one: Evaluated, phases: Phases, number: int) -> Markup:
    title = f"Training of {one.run}"

    def paint(chart: Chart) -> None:
        upper, lower = chart.subplots(2, 1, sharex=True)
        _draw(upper, phases, {"loss": ("loss", 1.0)})
        upper.set_ylabel("training loss")
        _draw(lower, phases, {key: (name, 100.0) for key, name in _VALIDATION.items()})
        lower.set_ylabel("validation, %")
        lower.set_ylim(bottom=0)
        for axes in (upper, lower):
            axes.grid(axis="x", visible=False)
            for edge in range(1, len(phases)):
                axes.axvline(edge, color=RULE, linewidth=0.8)
        centres = [place + 0.5 for place in range(len(phases))]
        names = [plain(shortened(name, 14)) for name in phases]
        lower.set_xticks(centres, names, rotation=90 if len(phases) > 4 else 0)
        lower.tick_params(axis="x", length=0)
        upper.tick_params(axis="x", length=0)
        lower.set_xlim(0, len(phases))
        if lower.get_legend_handles_labels()[0]:
            legend(chart, lower)
        else:
            lower.text(len(phases) / 2, 0.5, "no validation was recorded", ha="center", transform=lower.get_xaxis_transform())

    total = sum(float(record.get("seconds", 0.0)) for records in phases.values() for record in records)
    done = sum(map(len, phases.values()))
    said = f"{plural(len(phases), 'phase')}, {plural(done, 'round')}, {duration(total)} of training in all. "
    said += _early(phases) + _last(phases)
    drawing = draw(paint, name=f"training-{number}", title=title, description=said, height=4.6)
    return figure(title, drawing, f"{said} Each phase is drawn equally wide, whatever its number of rounds.", _data(title, phases))


def _draw(axes: Axes, phases: Phases, series: Mapping[str, tuple[str, float]]) -> None:
    for number, (key, (name, scale)) in enumerate(series.items()):
        style, label = (look(number) if key != "loss" else look(0)._replace(color=INK, line="-")), name
        for place, records in enumerate(phases.values()):
            points = [
                (place + (i + 0.5) / len(records), scale * value)
                for i, record in enumerate(records)
                if (value := _value(record, key)) is not None
            ]
            if points:
                xs, ys = zip(*points, strict=True)
                axes.plot(xs, ys, color=style.color, marker=style.marker, linestyle=style.line, markersize=4, label=label)
                label = "_"  # one entry in the legend, whatever the number of phases


def _value(record: Record, key: str) -> float | None:
    value: Any = record.get("loss") if key == "loss" else (record.get("validation") or {}).get(key)
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _last(phases: Phases) -> str:
    name, records = list(phases.items())[-1]
    parts = [f"{label} {percent(v)} %" for key, label in _VALIDATION.items() if (v := _value(records[-1], key)) is not None]
    return f"After the last round of {name} the validation accuracy is {', '.join(parts)}." if parts else ""


def early(records: Sequence[Record]) -> str:
    """`7 of 20 rounds`, where a phase was stopped before its time."""
    last = records[-1]
    return f"{int(last['round']) + 1} of {plural(int(last['rounds']), 'round')}" if "stopped" in last else ""


def _early(phases: Phases) -> str:
    """Which phases ended before their time."""
    stopped = [f"{name} after {rounds}" for name, records in phases.items() if (rounds := early(records))]
    return f"Stopped early, for want of a better validation score: {listed(stopped)}. " if stopped else ""


def _data(title: str, phases: Phases) -> Markup:
    records = [(name, record) for name, rounds_ in phases.items() for record in rounds_]
    more = list(dict.fromkeys(k for _, r in records for k, v in r.items() if k not in _OWN and isinstance(v, int | float)))
    header = ["Phase", "Round", "Time", "Images", "Learning rate", "Loss", *more, *_VALIDATION.values(), "Validation n"]
    rows = []
    for name, record in records:
        shares = [_value(record, key) for key in _VALIDATION]
        figures = [_number(record.get(key)) for key in ("learning_rate", "loss", *more)]
        place = f"{int(record.get('round', 0)) + 1} of {record.get('rounds', '?')}"
        start = [name, place, duration(float(record.get("seconds", 0.0))), str(record.get("images", ABSENT))]
        n = str((record.get("validation") or {}).get("n", ABSENT))
        rows.append([*start, *figures, *(ABSENT if v is None else percent(v) for v in shares), n])
    return table(f"{title}, round by round; validation in percent", header, rows)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ABSENT
