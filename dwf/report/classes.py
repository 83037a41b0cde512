"""Accuracy of each class, clean and under the headline worst case: an average can hide a class that is lost."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure as Chart

from dwf.core.wording import percent, plural, threat
from dwf.report.drawing import dots, draw, legend
from dwf.report.headline import chosen
from dwf.report.markup import figure, joined, table
from dwf.report.reading import Evaluated

SHOWN = 20
"""Classes drawn, the weakest first; the table behind the figure has all."""


def classes(evaluated: Sequence[Evaluated]) -> str | None:
    """One chart a run and headline threat, by the evaluation of most images; of several, by the lowest worst case."""
    shown = chosen([one for one in evaluated if one.result.per_class], _rank)
    return joined(_classes(one, i) for i, one in enumerate(shown)) or None


def _rank(one: Evaluated) -> tuple[float, ...]:
    return -one.result.dataset.n, one.headline.accuracy if one.headline else 1.0


def _classes(one: Evaluated, number: int) -> Markup:
    ordered = sorted(one.result.per_class, key=lambda entry: entry.worst_case)
    shown = ordered[:SHOWN]
    head = one.headline
    worst = f"worst case, {threat(head.norm, head.eps, head.space)}" if head else "worst case"

    def paint(chart: Chart) -> None:
        axes = chart.subplots()
        series = {"clean": [entry.clean for entry in shown], worst: [entry.worst_case for entry in shown]}
        dots(axes, [entry.class_ for entry in shown], series)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("accuracy in %")
        legend(chart, axes)

    title = f"Accuracy by class: {one.run}, {one.name}, n = {plural(one.result.dataset.n, 'image')}"
    weak, strong = ordered[0], ordered[-1]
    said = f"Weakest is {weak.class_} with {percent(weak.worst_case)} % in the {worst}, "
    said += f"strongest {strong.class_} with {percent(strong.worst_case)} %."
    if len(shown) < len(ordered):
        said += f" The {SHOWN} weakest of {len(ordered)} classes are drawn."
    rows = [(entry.class_, percent(entry.clean), percent(entry.worst_case)) for entry in ordered]
    data = table(title, ("Class", "Clean, %", f"{worst[0].upper()}{worst[1:]}, %"), rows)
    drawing = draw(paint, name=f"classes-{number}", title=title, description=said, height=1.5 + 0.3 * len(shown))
    return figure(title, drawing, said, data)
