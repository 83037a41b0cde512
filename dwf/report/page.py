"""The page: one HTML file without a single external reference, so that it can be mailed, printed and kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dwf.core.wording import count, listed
from dwf.report.layout import groups
from dwf.report.reading import Evaluated, by_run

Figure = Callable[[Sequence[Evaluated]], str | None]
"""An HTML fragment from evaluations; None if there is nothing to show."""

_ENVIRONMENT = Environment(
    loader=PackageLoader("dwf.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def page(evaluated: Sequence[Evaluated], figures: Mapping[str, Figure]) -> str:
    """The whole page; `figures` by heading, in page order."""
    drawn = {heading: fragment for heading, figure in figures.items() if (fragment := figure(evaluated))}
    sections = [(re.sub(r"[^a-z]+", "-", heading.lower()), heading, Markup(text)) for heading, text in drawn.items()]
    return _ENVIRONMENT.get_template("page.html.j2").render(
        runs=listed([one.run for one in by_run(evaluated)]), sections=sections, notices=notices(evaluated)
    )


def notices(evaluated: Sequence[Evaluated]) -> list[str]:
    """What a reader must know before comparing any two numbers of the page."""
    said = []
    for group in groups(evaluated):
        if not group.same_images:
            counts = listed([f"{one.run} {count(one.result.dataset.n)}" for one in group.members])
            said.append(
                f"The runs under {group.title} were evaluated on different images (n: {counts}): "
                "part of any difference between them is a difference of the images."
            )
        if group.split != "test":
            said.append(f"{group.title} was measured on the {group.split} split: it serves to choose, not to claim.")
    spaces = {one.name for one in evaluated if one.standardised}
    soft = {one.run for one in evaluated if one.foreign and one.foreign.get("outputs") == "probabilities"}
    if soft:
        said.append(
            f"{listed(sorted(soft))} returns probabilities and was attacked through their logarithm: attacks by gradient are "
            "weaker than they could be."
        )
    if spaces:
        said.append(f"{listed(sorted(spaces))} attacks in standardised space: its radii are not shares of the pixel range.")
    return said
