"""Accuracy against the FGSM radius and against PGD steps, the paper's figures 6 and 7, and against PGD's radius.

Bands are 95 % Wilson intervals. The first two are of the paper's protocol, the third of those that run PGD at several radii.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Chart

from dwf.core.result import AttackEntry
from dwf.core.wording import NORMS, count, decimal, interval, listed, of_255, percent, short_threat
from dwf.report.drawing import draw, legend, look, plain
from dwf.report.layout import Group, family, groups, papers, worst_cases
from dwf.report.markup import figure, joined, table
from dwf.report.reading import Evaluated
from dwf.report.rows import cumulative


class Point(NamedTuple):
    """One measured number."""

    x: float
    name: str
    accuracy: float
    ci95: tuple[float, float]


Line = tuple[str, list[Point]]

_HOLLOW: dict[str, Any] = {"markerfacecolor": "none", "linestyle": ""}


def curves(evaluated: Sequence[Evaluated]) -> str | None:
    """For each table: accuracy against the FGSM radius from the clean images on, and against the PGD steps at one radius.

    For each other evaluation with plain PGD at several radii of one norm: accuracy against its radius.
    """
    makers = (("fgsm", _fgsm), ("pgd", _pgd))
    drawn = [make(group, i) for i, group in enumerate(papers(evaluated)) for kind, make in makers if _has(group, kind)]
    drawn += [_radii(group, i) for i, group in enumerate(groups(evaluated)) if all(len(_plain(one)) > 1 for one in group.members)]
    return joined(drawn) or None


def _fgsm(group: Group, number: int) -> Markup:
    lines: list[Line] = []
    standardised = any(one.standardised for one in group.members)
    for one in group.members:
        clean = Point(0.0, "clean", one.result.clean.accuracy, one.result.clean.ci95)
        entries = {entry.eps: entry for entry in _entries(one, "own", "fgsm")}  # a radius both rows have counts once
        lines.append((one.run, [clean, *(_point(entry, entry.eps, of_255(entry.eps)) for _, entry in sorted(entries.items()))]))

    def paint(chart: Chart) -> None:
        axes = _axes(
            chart, lines, "FGSM radius in standardised space" if standardised else "FGSM radius, as a share of the pixel range"
        )
        for i, one in enumerate(group.members):
            if (head := one.headline) and head.norm == "linf":
                name = None if i else f"worst case at {short_threat(head.norm, head.eps)}, colour as the run"
                style = {**_HOLLOW, "marker": "*", "markersize": 13, "color": look(i).color}
                axes.plot([head.eps], [100 * head.accuracy], label=name, **style)
        if not standardised:
            _in_255ths(axes)
        legend(chart, axes)

    title = f"Accuracy against the FGSM radius, {group.title}"
    return _figure(lines, paint, group=group, name=f"fgsm-{number}", title=title, unit="Radius")


def _pgd(group: Group, number: int) -> Markup:
    lines: list[Line] = []
    for one in group.members:
        entries = sorted((e for e in _entries(one, "pgd", "eot") if not _averaged(e)), key=lambda entry: entry.steps)
        lines.append((one.run, [_point(entry, entry.steps, entry.name) for entry in entries]))
    restarts = [(i, entry) for i, one in enumerate(group.members) for entry in _entries(one, "restarts")]

    def paint(chart: Chart) -> None:
        axes = _axes(chart, lines, f"PGD steps, at Linf {group.pgd_radius}")
        for i, entry in restarts:
            name = f"MS: {entry.restarts} restarts" if entry is restarts[0][1] else None
            style = {**_HOLLOW, "marker": "p", "markersize": 11, "color": look(i).color}
            axes.plot([entry.steps], [100 * entry.accuracy], label=name, **style)
        legend(chart, axes)

    title = f"Accuracy against the number of PGD steps, {group.title}"
    averaged = [(i, entry) for i, one in enumerate(group.members) for entry in _entries(one, "eot") if _averaged(entry)]
    apart = restarts + averaged
    shown = [(run, [*points, *(_point(e, e.steps, e.name) for i, e in apart if i == k)]) for k, (run, points) in enumerate(lines)]
    return _figure(lines, paint, group=group, name=f"pgd-{number}", title=title, unit="Steps", listing=shown)


def _radii(group: Group, number: int) -> Markup:
    lines: list[Line] = []
    for one in group.members:
        clean = Point(0.0, "clean", one.result.clean.accuracy, one.result.clean.ci95)
        lines.append((one.run, [clean, *(_point(entry, entry.eps, entry.name) for entry in _plain(one))]))
    entries = [entry for one in group.members for entry in _plain(one)]
    norm = entries[0].norm

    def paint(chart: Chart) -> None:
        unit = ", as a share of the pixel range" if norm == "linf" else ""
        axes = _axes(chart, lines, f"{NORMS.get(norm, norm)} radius of PGD-{entries[0].steps}{unit}")
        for i, one in enumerate(group.members):
            cases = [case for case in worst_cases(one) if case.norm == norm]
            name = None if i else "worst case, colour as the run"
            style = {**_HOLLOW, "marker": "*", "markersize": 13, "color": look(i).color}
            axes.plot([case.eps for case in cases], [100 * case.accuracy for case in cases], label=name, **style)
        if norm == "linf":
            _in_255ths(axes)
        legend(chart, axes)

    title = f"Accuracy against the PGD radius, {group.title}"
    falls = any(cumulative(one, entry) for one in group.members for entry in _plain(one))
    more = " Each radius attacks the survivors of the smaller ones, so the line cannot rise." if falls else ""
    return _figure(lines, paint, group=group, name=f"radii-{number}", title=title, unit="Radius", more=more)


def _plain(one: Evaluated) -> list[AttackEntry]:
    """Plain PGD on the whole model at the headline's norm, one row a radius in ascending order.

    `pgd-huge` is left out: half of the pixel range is there for an alarm, and with another step.
    """
    norm = one.headline.norm if one.headline else None
    found = [entry for entry in one.result.attacks if entry.norm == norm and entry.space == "pixel"]
    rows = [entry for entry in found if re.fullmatch(r"pgd(-\d+)?(-(linf|l2-)[\d.]+)?", entry.name)]
    return sorted({entry.eps: entry for entry in rows}.values(), key=lambda entry: entry.eps)


def _in_255ths(axes: Axes) -> None:
    above = axes.secondary_xaxis("top", functions=(_times_255, _over_255))
    above.set_xlabel("the same in 255ths")


def _figure(
    lines: list[Line],
    paint: Callable[[Chart], None],
    *,
    group: Group,
    name: str,
    title: str,
    unit: str,
    more: str = "",
    listing: list[Line] | None = None,
) -> Markup:
    """`listing`: the points of the table under the figure, where there are more than its lines join."""

    def x(point: Point) -> str:
        return decimal(point.x) if unit == "Radius" else count(point.x)

    lines_said = [f"{run} goes from {percent(p[0].accuracy)} to {percent(p[-1].accuracy)} %" for run, p in lines if p]
    description = f"{listed(lines_said)}, between {x(lines[0][1][0])} and {x(lines[0][1][-1])} on the horizontal axis."
    rows = [(run, x(p), p.name, percent(p.accuracy), interval(p.ci95)) for run, points in listing or lines for p in points]
    data = table(title, ("Run", unit, "Row", "Accuracy in %", "95 % interval"), rows)
    images = listed(list(map(count, group.counts)))
    said = f"Accuracy in percent, n = {images} images; bands are 95 % Wilson intervals.{more}"
    drawing = draw(paint, name=name, title=title, description=description, height=3.3 + 0.22 * len(lines))
    return figure(title, drawing, said, data)


def _axes(chart: Chart, lines: list[Line], label: str) -> Axes:
    axes = chart.subplots()
    for i, (run, points) in enumerate(lines):
        style, xs = look(i), [point.x for point in points]
        lows, highs = [[100 * point.ci95[side] for point in points] for side in (0, 1)]
        axes.fill_between(xs, lows, highs, color=style.color, alpha=0.18, linewidth=0)
        ys = [100 * point.accuracy for point in points]
        axes.plot(xs, ys, color=style.color, marker=style.marker, linestyle=style.line, label=plain(run))
    axes.set_ylim(bottom=0, top=min(100.0, axes.get_ylim()[1] + 3))
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy in %")
    return axes


def _entries(one: Evaluated, *families: str) -> list[AttackEntry]:
    found = [entry for entry in one.result.attacks if entry.iterate == "last" and family(entry) in families]
    return sorted(found, key=lambda entry: families.index(family(entry)))


def _has(group: Group, kind: str) -> bool:
    """Whether every member has a line to draw, at one radius if it is PGD's."""
    lines = [_entries(one, kind) for one in group.members]
    radii = {(entry.norm, entry.eps) for line in lines for entry in line}
    return all(len(line) > 1 for line in lines) and (kind == "fgsm" or len(radii) == 1)


def _averaged(entry: AttackEntry) -> bool:
    """Over several draws a step: another attack than plain PGD, which one draw is."""
    return family(entry) == "eot" and not entry.name.endswith("eot1")


def _point(entry: AttackEntry, x: float, name: str) -> Point:
    return Point(x, name, entry.accuracy, entry.ci95)


def _times_255(eps: Any) -> Any:
    return eps * 255


def _over_255(levels: Any) -> Any:
    return levels / 255
