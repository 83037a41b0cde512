"""The section on certified radii, on results built by hand."""

import re
from html import unescape

from report_protocols import evaluated, result, row, share, worst

from dwf.core.result import CertifiedEntry
from dwf.report import FIGURES
from dwf.report.certified import certified
from dwf.report.coverage import coverage


def text(html):
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", str(html))).split())


def proof(largest, median):
    radii = tuple(largest * (i + 1) / 4 for i in range(4)) if largest else ()
    return CertifiedEntry(
        median=median, largest=largest, radii=radii, shares=tuple(share(0.8 - 0.2 * i) for i in range(len(radii)))
    )


def judged(run, l2, linf, **more):
    rows = [row("pgd-50-linf1", 0.7, eps=1 / 255), row("pgd-50-l2-0.1", 0.6, eps=0.1, norm="l2")]
    cases = [worst(0.7, rows[:1], eps=1 / 255), worst(0.6, rows[1:], eps=0.1, norm="l2")]
    return evaluated(result("certified", rows, cases, run=run, certified={"l2": proof(*l2), "linf": proof(*linf)}, **more))


def test_the_curve_the_median_and_the_numbers_are_there():
    html = certified([judged("dual", (0.2, 0.1), (0.012, 0.004)), judged("other", (0.1, 0.0), (0.006, 0.0))])
    said = text(html)
    assert html.count("<svg") == 2
    assert "Certified accuracy in L2 on cifar10, test split" in said
    assert "The median radius of dual over 200 images is 0.1 (25.5/255), the largest 0.2 (51/255)." in said
    assert "The median radius of other over 200 images is 0 (0/255), since half of the images are wrong or unproven" in said
    assert "0.15 38.25/255 40.00" in said
    assert "Nothing is certified" not in said


def test_where_nothing_is_certified_it_says_so():
    html = certified([judged("plain", (3e-12, 1e-13), (0.0, 0.0))])
    said = text(html)
    assert "<svg" not in html
    assert "Nothing is certified for plain in L2: of 200 images the largest radius is 3e-12, less than half a grey level" in said
    assert "Nothing is certified for plain in Linf: of 200 images the largest radius is 0, less" in said


def test_runs_that_were_not_asked_have_no_section():
    assert certified([evaluated(result("table3", [row("pgd-50", 0.5)], [worst(0.5, [row("pgd-50", 0.5)])]))]) is None
    assert "Certified radii" in FIGURES


def test_the_alarm_is_asked_by_this_protocol_and_missed_by_none():
    found = coverage([judged("dual", (0.2, 0.1), (0.012, 0.004))])
    assert "certificate_broken" in found.asked
    assert "certificate_broken" not in found.missing
