"""The report: result files in, one self-contained HTML page out, and its tables in three more formats beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dwf.core.errors import Refused
from dwf.core.files import written
from dwf.report.attacks import attacks
from dwf.report.certified import certified
from dwf.report.classes import classes
from dwf.report.comparison import comparison
from dwf.report.cost import cost
from dwf.report.curves import curves
from dwf.report.duels import Comparison, compare
from dwf.report.experts import experts
from dwf.report.flags import flags
from dwf.report.formats import latex, markdown, terminal
from dwf.report.images import images
from dwf.report.page import Figure, page
from dwf.report.provenance import provenance
from dwf.report.reading import Evaluated, read, read_all
from dwf.report.routing import routing
from dwf.report.spreadsheet import csv, overview_csv
from dwf.report.summary import summary
from dwf.report.table import table
from dwf.report.training import training

__all__ = [
    "FIGURES",
    "Comparison",
    "Evaluated",
    "Figure",
    "compare",
    "csv",
    "latex",
    "markdown",
    "overview_csv",
    "page",
    "read",
    "read_all",
    "terminal",
    "write",
]

FIGURES: dict[str, Figure] = {
    "Summary": summary,
    "Alarms": flags,
    "Results": table,
    "Comparison": comparison,
    "Accuracy against the attack's strength": curves,
    "Certified radii": certified,
    "Classes": classes,
    "Experts": experts,
    "Routing": routing,
    "Images": images,
    "Training": training,
    "Cost": cost,
    "Every attack": attacks,
    "Provenance": provenance,
}
"""By heading, in page order. A new figure is one file, its test, and one line here."""


def write(folders: Sequence[Path | str], out: Path | str) -> list[Path]:
    """Write the page `out` (`*.html`) and beside it its tables as .md and .tex, all runs as .runs.csv and every number as .csv.

    Returns the five paths. Raises `Refused` for a run folder that cannot be read, for an `out` that cannot be written, and where
    something else lies under one of the other names, of which the user gave none.
    """
    out = Path(out)
    if out.suffix not in (".html", ".htm"):
        raise Refused(f"the report is a web page and '{out}' does not end in .html; choose a name like report.html with --out")
    evaluated = read_all([Path(folder) for folder in folders])
    texts = {
        out: page(evaluated, FIGURES),
        out.with_suffix(".csv"): csv(evaluated),
        out.with_suffix(".runs.csv"): overview_csv(evaluated),
        out.with_suffix(".md"): markdown(evaluated),
        out.with_suffix(".tex"): latex(evaluated),
    }
    for path, text in texts.items():
        if path != out:
            _ours(path, text)
    for path, text in texts.items():
        with written(path) as beside:
            beside.write_text(text, encoding="utf-8")
    return list(texts)


def _ours(path: Path, text: str) -> None:
    """Raises `Refused` where `path` is there and begins otherwise than what is to be written, as an older one of ours does not."""
    begins = text[:4].encode()
    try:
        with path.open("rb") as file:
            found = file.read(len(begins))
    except OSError:  # not there; if it cannot be written either, writing says so
        return
    if found and found != begins:
        raise Refused(f"{path} is there already and no table of a report; give the page another name with --out")
