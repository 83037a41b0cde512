"""What is proven: the share of images that are right and cannot be changed by any move up to a radius, beside what attacks left.

The truth lies between the two: a certificate is a lower bound of the robust accuracy, an attack an upper one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure as Chart

from dwf.core.result import CertifiedEntry
from dwf.core.wording import NORMS, decimal, interval, of_255, percent, plural
from dwf.report.drawing import draw, legend, look, plain
from dwf.report.markup import figure, joined, table, tag
from dwf.report.reading import Evaluated

LEAST = 0.5 / 255
"""Half a grey level of a single pixel: with no radius above it, nothing is certified."""

Proof = tuple[Evaluated, CertifiedEntry]


def certified(evaluated: Sequence[Evaluated]) -> str | None:
    """For each data set and norm a chart of the runs with certified images, and a sentence about those without."""
    places: dict[tuple[str, str, str], list[Proof]] = {}
    for one in evaluated:
        for norm, entry in one.result.certified.items():
            places.setdefault((one.result.dataset.name, one.result.dataset.split, norm), []).append((one, entry))
    parts: list[Markup] = []
    for number, ((data, split, norm), found) in enumerate(places.items()):
        proven = [proof for proof in found if not _nothing(proof[1])]
        if proven:
            parts.append(_figure(proven, norm, f"Certified accuracy in {NORMS[norm]} on {data}, {split} split", number))
        parts += [tag("p", _none(one, entry, norm), class_="said") for one, entry in found if _nothing(entry)]
    return joined(parts) or None


def _figure(proven: Sequence[Proof], norm: str, title: str, number: int) -> Markup:
    def paint(chart: Chart) -> None:
        axes = chart.subplots()
        for i, (one, entry) in enumerate(proven):
            style, clean = look(i), 100 * one.result.clean.accuracy
            ys = [clean, *(100 * share.value for share in entry.shares)]
            line: dict[str, Any] = {"color": style.color, "marker": style.marker, "linestyle": style.line, "markevery": 8}
            axes.plot([0.0, *entry.radii], ys, label=plain(one.run), **line)
            cases = [case for case in one.result.worst_case if case.norm == norm and case.eps <= 2 * entry.largest]
            name = None if i else "left by attacks, colour as the run"
            hollow: dict[str, Any] = {"marker": "*", "markersize": 13, "markerfacecolor": "none", "linestyle": ""}
            hollow["color"] = style.color
            axes.plot([case.eps for case in cases], [100 * case.accuracy for case in cases], label=name, **hollow)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{NORMS[norm]} radius" + (", as a share of the pixel range" if norm == "linf" else ""))
        axes.set_ylabel("right and certified, in %")
        legend(chart, axes)

    said = ". ".join(_median(one, entry) for one, entry in proven) + "."
    rows = [
        (one.run, decimal(radius), of_255(radius), percent(share.value), interval(share.ci95))
        for one, entry in proven
        for radius, share in zip(entry.radii, entry.shares, strict=True)
    ]
    data = table(title, ("Run", "Radius", "In 255ths", "Right and certified, %", "95 % interval"), rows)
    drawing = draw(paint, name=f"certified-{norm}-{number}", title=title, description=said, height=3.3 + 0.22 * len(proven))
    more = f"{said} A wrong image's radius is 0. No attack can do better inside a radius; stars are what attacks did at theirs."
    return figure(title, drawing, more, data)


def _median(one: Evaluated, entry: CertifiedEntry) -> str:
    right = "" if entry.median > 0 else ", since half of the images are wrong or unproven"
    median, largest = (f"{decimal(radius)} ({of_255(radius)})" for radius in (entry.median, entry.largest))
    return f"The median radius of {one.run} over {plural(one.result.dataset.n, 'image')} is {median}{right}, the largest {largest}"


def _nothing(entry: CertifiedEntry) -> bool:
    return entry.largest < LEAST


def _none(one: Evaluated, entry: CertifiedEntry, norm: str) -> str:
    radius = f"{entry.largest:.1g}" if entry.largest else "0"
    return (
        f"Nothing is certified for {one.run} in {NORMS[norm]}: of {plural(one.result.dataset.n, 'image')} the largest radius is "
        f"{radius}, less than half a grey level of one pixel. Its margins are too small for what its layers' bounds allow; "
        "what it withstands is known from attacks alone."
    )
