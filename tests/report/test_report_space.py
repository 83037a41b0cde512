"""Radii in the standardised space are no shares of the pixel range: every table and figure that shows them says so."""

import csv as reader
import io
import json
import re

import pytest

from dwf import report
from dwf.report.curves import curves
from dwf.report.reading import read_all

SAID = "in standardised space"


@pytest.fixture(params=[True, False], ids=["said", "in an older file"])
def standardised(build, request):
    """The paper's rows with radii as lengths of the standardised space; older files do not say it of worst cases."""
    folder = build("a", evaluations=("table3-spacenormalized",))
    file = folder / "eval" / "table3-spacenormalized.json"
    found = json.loads(file.read_text())
    for row in (*found["attacks"], *(found["worst_case"] if request.param else ())):
        row["space"] = "normalized"
    file.write_text(json.dumps(found))
    return read_all([folder])


def test_tables_that_are_copied_elsewhere_say_it(standardised):
    for text in (report.markdown(standardised), report.latex(standardised)):
        assert f"Worst case Linf 8/255 {SAID}" in text
        assert f"radii {SAID}" in text
    rows = list(reader.DictReader(io.StringIO(report.csv(standardised))))
    assert {row["space"] for row in rows if row["eps"]} == {"normalized"}


def test_curves_have_no_pixels_on_their_axes(standardised):
    drawn = str(curves(standardised))
    assert f"FGSM radius {SAID}" in drawn
    assert "share of the pixel range" not in drawn
    assert "the same in 255ths" not in drawn


def test_the_page_says_it_of_every_worst_case(standardised):
    text = re.sub(r"<[^>]+>", " ", report.page(standardised, report.FIGURES))
    said = re.findall(r"Linf 8/255 \(0\.0314\)(?: in standardised space)?", text)
    assert f"Linf 8/255 (0.0314) {SAID}" in said
