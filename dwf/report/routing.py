"""Where the gate sends clean, FGSM and PGD images: the mean weight of each expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.figure import Figure as Chart

from dwf.core.result import RoutingEntry
from dwf.core.wording import percent, plural
from dwf.report.drawing import INK, dots, draw, legend
from dwf.report.headline import chosen
from dwf.report.markup import figure, joined, table
from dwf.report.reading import Evaluated

_KINDS = {"clean": "clean images", "fgsm": "FGSM images", "pgd": "PGD images"}


def routing(evaluated: Sequence[Evaluated]) -> str | None:
    """One chart a run with a gate and headline threat: by the evaluation with most kinds of images, then with most images."""
    shown = chosen([one for one in evaluated if one.result.routing], _rank)
    return joined(_routing(one, one.result.routing or {}, i) for i, one in enumerate(shown)) or None


def _rank(one: Evaluated) -> tuple[float, ...]:
    return -len(one.result.routing or ()), -one.result.dataset.n


def names(one: Evaluated, count: int) -> list[str]:
    """Names of the experts: their training phases where the journal has one for each, otherwise numbers."""
    phases = [str(r["phase"]) for r in one.journal if r.get("event") == "phase" and "phase" in r]
    own = [name for name in dict.fromkeys(phases) if name not in ("joint", "gate", "train")]
    return own if len(own) == count else [f"expert {i + 1}" for i in range(count)]


def _routing(one: Evaluated, gate: Mapping[str, RoutingEntry], number: int) -> Markup:
    shown = {_KINDS.get(kind, kind): entry for kind, entry in gate.items()}
    size = min(len(entry.weights) for entry in shown.values())
    called = names(one, size)
    title = f"Mean gate weight of each expert: {one.run}, {one.name}, n = {plural(one.result.dataset.n, 'image')}"

    def paint(chart: Chart) -> None:
        axes = chart.subplots()
        axes.axvline(100 / size, color=INK, linewidth=1, linestyle=":", label="uniform")
        dots(axes, called, {kind: entry.weights[:size] for kind, entry in shown.items()})
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        axes.set_xlabel("mean weight in %")
        legend(chart, axes)

    said = [f"On {kind} {_heaviest(entry, called)}" for kind, entry in shown.items()]
    drawing = draw(paint, name=f"routing-{number}", title=title, description=". ".join(said) + ".", height=1.5 + 0.3 * size)
    return figure(title, drawing, ". ".join(said) + ".", _data(title, shown, called))


def _data(title: str, shown: Mapping[str, RoutingEntry], names: Sequence[str]) -> Markup:
    header = ["Expert", *(text for kind in shown for text in (f"Weight on {kind}, %", f"Load on {kind}, %"))]
    rows = [
        [name, *(percent(value) for entry in shown.values() for value in (entry.weights[i], entry.load[i]))]
        for i, name in enumerate(names)
    ]
    rows.append(["mean entropy, nats", *(text for entry in shown.values() for text in (f"{entry.entropy:.3f}", ""))])
    if all(entry.variation is not None for entry in shown.values()):
        rows.append(["mean distance to the mean weights", *(t for entry in shown.values() for t in (f"{entry.variation:.3f}", ""))])
    return table(f"{title}. Load is the share of images on which the expert weighs most.", header, rows)


def _heaviest(entry: RoutingEntry, names: Sequence[str]) -> str:
    top = max(range(len(names)), key=lambda i: entry.weights[i])
    used = f"{entry.effective:.1f} of {len(names)} experts are effective"
    return f"{names[top]} weighs most ({percent(entry.weights[top])} %) and {used}"
