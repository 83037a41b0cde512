"""Charts as inline SVG that follow the page: its colours in light, dark and print, its fonts, and a sentence for a screen reader.

matplotlib writes placeholder colours, which become the page's CSS variables afterwards. Series differ in marker and line style
too, so that colour is never the only carrier.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Chart

from dwf.core.wording import shortened

INK, RULE = "#010101", "#020202"
SERIES = tuple(f"#0a0a{i:02x}" for i in range(6))
_THEME = {INK: "var(--ink)", RULE: "var(--rule)", **{colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)}}

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""One more than colours: the pairing shifts with each round, so 42 series stay distinct."""
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

_WIDTH = 5.0
"""Inches at 72 points: close to a phone's width, so that the text stays readable there."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dwf",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "figure.facecolor": "none",
}


class Look(NamedTuple):
    """How one series is drawn."""

    color: str
    marker: str
    line: Any


def look(number: int) -> Look:
    """The look of the series with this number."""
    return Look(SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)], LINES[number % len(LINES)])


def draw(paint: Callable[[Chart], None], *, name: str, title: str, description: str, height: float = 3.6) -> Markup:
    """The SVG that `paint` makes. `name` is unique on the page; `description` states the key numbers in a sentence."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the reader's browser has the fonts, whatever this machine lacks
        chart = Chart(figsize=(_WIDTH, height), layout="constrained")
        paint(chart)
        text = io.StringIO()
        chart.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _themed(text.getvalue(), name, title, description)


def legend(chart: Chart, axes: Axes) -> None:
    """The legend under the chart, one column if names are long."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    wrapped = [textwrap.fill(label, 48) for label in labels]
    chart.legend(handles, wrapped, loc="outside lower left", ncols=1 if longest > 22 else 2 if longest > 12 else 3)


def plain(label: str) -> str:
    """A name from a file as a label: shortened, and not hidden by matplotlib for a leading underscore."""
    label = shortened(" ".join(label.split()), 90)
    return f"\u200b{label}" if label.startswith("_") else label


def dots(axes: Axes, labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """One line a label and one marker a series: shares between 0 and 1, drawn in percent."""
    places = range(len(labels))
    for place in places:
        span = [100 * values[place] for values in series.values()]
        axes.plot([min(span), max(span)], [place, place], color=RULE, linewidth=3, solid_capstyle="round")
    for number, (name, values) in enumerate(series.items()):
        style = look(number)
        xs = [100 * value for value in values]
        axes.plot(
            xs, places, color=style.color, marker=style.marker, linestyle="", markersize=7, label=name, markerfacecolor="none"
        )
    axes.set_yticks(places, [plain(shortened(label, 18)) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def _themed(svg: str, name: str, title: str, description: str) -> Markup:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', body).replace("url(#", f"url(#{name}-")
    for colour, variable in _THEME.items():
        body = body.replace(colour, variable)
    box = re.search(r'viewBox="[^"]*"', body)
    assert box, "matplotlib writes a viewBox"
    opening = (
        f'<svg {box[0]} role="img" aria-labelledby="{name}-title {name}-desc" class="chart">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    )
    return Markup(opening + body[body.index(">", body.index("<svg")) + 1 :].strip())
