"""The overview and the headline: which evaluation each number is taken from, and what is never mixed; on results built by hand."""

import csv as reader
import io

from report_protocols import EPS, autoattack, evaluated, full, moe, result, row, standard, table3, worst
from report_words import PLAIN, text

from dwf import report
from dwf.report.headline import headline, verdicts
from dwf.report.overview import NOT_RUN, overviews
from dwf.report.summary import summary

THREAT = ("linf", round(EPS, 6))


# ---- the overview


def test_the_overview_takes_each_number_from_where_it_was_measured():
    runs = [evaluated(table3(n=1000)), evaluated(full()), evaluated(autoattack()), evaluated(table3(n=1000, **PLAIN))]
    (one,) = overviews(runs)
    mix, at = one.lines
    assert [(entry.by.name, entry.score.n) for entry in mix.entries] == [
        ("table3", 1000),
        ("table3", 1000),
        ("autoattack", 50),
        ("full", 200),
    ]
    assert [entry.score.accuracy for entry in mix.entries] == [0.8, 0.5, 0.36, 0.38]
    assert [entry is None for entry in at.entries] == [False, False, True, True]
    assert (mix.alarms, at.alarms) == ("none; 12 of 12 asked", "none; 4 of 8 asked")
    assert any("different images" in remark for remark in one.remarks)


def test_every_format_has_the_overview_with_intervals_and_n():
    runs = [evaluated(table3(n=1000)), evaluated(full()), evaluated(table3(n=1000, **PLAIN))]
    number = "38.00 (31.56 to 44.89), n = 200"
    assert f"| {number} | none; 12 of 12 asked |" in report.markdown(runs)
    assert f"& {number} & none; 12 of 12 asked" in report.latex(runs)
    mix, at = reader.DictReader(io.StringIO(report.overview_csv(runs)))
    assert [mix[key] for key in ("full", "full_low", "full_high", "full_n", "full_by")] == [
        "38.00",
        "31.56",
        "44.89",
        "200",
        "full",
    ]
    assert (at["full"], at["autoattack_n"]) == ("", "")
    overview, paper, other = report.terminal(runs)
    assert overview[0] == ["cifar10, Linf 8/255", "SA", "PGD-100x3", "AutoAttack", "full, worst case", "Alarms"]
    assert overview[1][1:5] == ["80.00\nn = 1,000", "50.00\nn = 1,000", NOT_RUN, "38.00\nn = 200"]
    assert [len(paper), len(other)] == [3, 2]
    html = text(report.page(runs, report.FIGURES))
    assert "38.00 31.56 to 44.89 n = 200" in html
    assert NOT_RUN in html


def test_no_table_of_the_terminal_has_a_row_of_blanks():
    for table in report.terminal([evaluated(table3()), evaluated(standard()), evaluated(moe()), evaluated(autoattack())]):
        for line in table:
            assert len(line) == len(table[0])
            assert sum(cell == "–" for cell in line) <= 3  # three of standard's four threats
    ((header, line),) = report.terminal([evaluated(standard())])
    threats = ["Worst case Linf 2/255", "Worst case Linf 4/255", "Worst case Linf 8/255", "Worst case L2 0.5"]
    assert header == ["Run", "Evaluation", "n", "SA", *threats, "Alarms"]
    assert line[3:] == ["80.00", "70.00", "60.00", "44.00", "50.00", "none of 3"]


def test_other_settings_than_the_protocols_own_are_marked():
    short = row("pgd-20x3", 0.45, steps=20, restarts=3)
    weak = full().model_copy(update={"attacks": (short,)})
    (one,) = overviews([evaluated(weak, "full-steps10")])
    assert [entry.changed if entry else None for entry in one.lines[0].entries] == [
        "",
        "pgd-20x3 by full-steps10",
        None,
        "full-steps10",
    ]
    assert "38.00\\* (31.56 to 44.89)" in report.markdown([evaluated(weak, "full-steps10")])
    assert "other settings than the protocol's own: pgd-20x3 by full-steps10, full-steps10." in one.remarks[0]
    more = evaluated(full(n=1000), "full-steps10")
    assert overviews([more, evaluated(full())])[0].lines[0].entries[3].by.name == "full", "not the weaker one of more images"
    assert evaluated(full(), "full-eps0.1").tag == ""  # a threat is no weakening
    assert evaluated(full(), "full-norml2-eps1e-05-steps10").tag == "steps10"


def test_the_second_radius_of_the_paper_has_no_overview_of_its_own():
    other = table3().model_copy(update={"worst_case": (worst(0.6, [row("pgd-50", 0.6)], eps=0.02),)})
    assert [one.threat for one in overviews([evaluated(table3()), evaluated(other, "table3-eps0.02")])] == [THREAT]
    assert [one.threat for one in overviews([evaluated(other, "table3-eps0.02")])] == [("linf", 0.02)]


# ---- the headline


def test_the_headline_is_the_lowest_worst_case_and_says_whose():
    runs = [evaluated(one) for one in (table3(), moe(), full(), standard())]
    (found,) = verdicts(runs, THREAT)
    assert (found.by.name, found.case.accuracy) == ("full", 0.38)
    assert {one.name for one in found.among} == {"table3", "moe", "full", "standard"}
    assert "by full; none lower by table3, moe and standard" in text(summary(runs))


def test_images_are_never_mixed():
    runs = [evaluated(table3(n=1000)), evaluated(full(accuracy=0.2)), evaluated(autoattack())]
    assert [(one.by.name, one.by.result.dataset.n) for one in verdicts(runs, THREAT)] == [
        ("table3", 1000),
        ("full", 200),
        ("autoattack", 50),
    ]
    said = text(summary(runs))
    assert said.index("n = 1,000 images") < said.index("n = 200 images") < said.index("n = 50 images")
    assert "Different images" in said


def test_radii_of_the_standardised_space_are_no_headline():
    odd = [row("pgd-100x3", 0.1, space="normalized", steps=100, restarts=3)]
    case = worst(0.1, odd).model_copy(update={"space": "normalized"})
    lower = evaluated(result("table3", odd, [case]), "table3-spacenormalized")
    runs = [evaluated(table3()), lower]
    assert headline(runs) == THREAT
    assert [one.by.name for one in verdicts(runs, THREAT)] == ["table3"]
    assert "Also, at Linf 8/255 in standardised space: 10.00 %" in text(summary(runs))
    assert [entry.by.name for entry in overviews(runs)[0].lines[0].entries[:2]] == ["table3", "table3"]


def test_radii_that_serve_the_alarms_are_no_worst_cases_to_quote():
    said = text(report.page([evaluated(full())], {"Results": report.FIGURES["Results"]}))
    assert "16/255" not in said
    assert "2/255" in text(report.page([evaluated(standard())], {"Results": report.FIGURES["Results"]}))
