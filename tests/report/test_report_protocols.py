"""What the report says of the protocols beside table3, on results built by hand."""

import csv as reader
import io
import re
from collections import defaultdict
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from report_protocols import AFTER, EPS, autoattack, evaluated, flag, full, moe, result, row, share, standard, table3, worst, write

from dwf import report
from dwf.core.record import FOREIGN
from dwf.evaluation import PROTOCOLS
from dwf.evaluation import flags as alarm_functions
from dwf.evaluation.check import Findings, Scope
from dwf.report.attacks import attacks
from dwf.report.commands import ask, command
from dwf.report.coverage import TRUST, WORTH, asked, coverage
from dwf.report.curves import curves
from dwf.report.experts import experts
from dwf.report.flags import flags
from dwf.report.headline import headline, verdicts
from dwf.report.overview import NOT_RUN, overviews
from dwf.report.provenance import provenance
from dwf.report.reading import read_all
from dwf.report.rows import cumulative, effort, targets
from dwf.report.summary import summary

PLAIN = {"run": "at", "gate": 0}
THREAT = ("linf", round(EPS, 6))
STRANGER = {"kind": FOREIGN, "model": "their.net:make", "weights": "w.safetensors", "mean": [0.5], "std": [0.25]}
STRANGER |= {"outputs": "probabilities", "fingerprint": "cd" * 32}


def text(html):
    """What a reader sees, cell by cell."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", str(html))).split())


def entries(one):
    return {entry.name: entry for entry in one.result.attacks}


# ---- who is attacked


def test_rows_on_survivors_are_cumulative_and_rows_on_right_images_are_not():
    whole, parts = evaluated(full()), evaluated(moe())
    said = {name: (targets(whole, entry), cumulative(whole, entry)) for name, entry in entries(whole).items()}
    assert said["square"] == (AFTER, True)
    assert said["pgd-linf2"] == ("images that are right", False)
    assert said["pgd-50"] == ("all images", False)
    assert said["expert-1"] == ("images that are right", False)
    assert said["routing"] == said["reweighed"] == ("survivors of all before", True)
    assert not any(cumulative(parts, entry) for entry in parts.result.attacks)


def test_effort_is_steps_queries_or_several_attacks():
    rows = entries(evaluated(full()))
    assert [effort(rows[name]) for name in ("square", "pgd-50", "expert-2")] == ["1,000 queries", "50", "PGD 50, then APGD-CE 100"]


def test_every_attack_says_what_it_sees_and_marks_cumulative_and_standardised_rows():
    odd = row("pgd-10", 0.3, space="normalized")
    said = text(attacks([evaluated(full()), evaluated(result("table3", [odd], [worst(0.3, [odd])]), "table3-spacenormalized")]))
    assert "square 40.00 †" in said
    assert "pgd-50 50.00 43.14 to 56.86" in said
    assert "pgd-linf2 70.00 63" in said
    for words in (
        "a softened copy (temperatures: gate 10, experts 100)",
        "another model, other",
        "expert 2 alone",
        "1,000 queries",
    ):
        assert words in said, words
    assert "pgd-10 30.00 ‡" in said
    assert "Linf 8/255 (0.0314) in standardised space" in said
    assert "† counts everything that the row follows and itself" in said
    assert said.index("square") < said.index(" pgd-linf2 70")  # the headline threat first


# ---- alarms


def test_an_alarm_of_two_evaluations_is_told_once_with_both_values():
    both = [evaluated(moe(flags=(flag("dead_weight", "worth", 0.1),))), evaluated(full(flags=(flag("dead_weight", "worth", 0.2),)))]
    said = text(flags(both))
    assert said.count("Cause of dead_weight.") == said.count("Remedy of dead_weight.") == 1
    assert "0.1 (moe, n = 200), 0.2 (full, n = 200)" in said


def test_what_nobody_asked_is_said_with_the_command_that_asks():
    said = text(flags([evaluated(table3())]))
    assert "No alarm was raised for mix." in said
    missing = "nonmonotone, large_eps_survives, zero_gradient, blackbox_beats_whitebox, softened_transfer, dead_weight"
    assert f"{missing}; run dwf evaluate runs/mix --protocol full" in said
    assert "No black-box and no transfer attack has tried mix" in said
    calm = text(flags([evaluated(table3()), evaluated(full())]))
    assert "--protocol full" not in calm
    assert "No black-box" not in calm
    assert "0.00 % (0.00 to" in calm  # the share of zero gradients, though it raised nothing


def test_a_plain_net_is_not_asked_what_only_a_mixture_can_raise():
    found = coverage([evaluated(table3(**PLAIN))])
    assert set(found.asked) == {"fgsm_beats_pgd", "fgsm_overfit", "no_convergence", "randomized"}
    assert not {"softened_transfer", *WORTH} & {*found.missing}


def test_the_chance_of_a_false_alarm_is_bounded():
    assert "table3: 4 at most 20 %" in text(flags([evaluated(table3())]))
    assert "any of the 4 tests of this page does is at most 20 %." in text(flags([evaluated(table3())]))
    together = text(flags([evaluated(table3()), evaluated(full())]))
    assert "any of the 23 tests of this page does is at most 100 % (which bounds nothing)." in together
    old = table3().model_copy(update={"flag_tests": 0})
    assert "table3: not recorded" in text(flags([evaluated(old)]))
    assert "No alarm that was asked here is a statistical test." in text(flags([evaluated(standard())]))


@pytest.mark.parametrize("kind", PROTOCOLS)
@pytest.mark.parametrize("count", [0, 3])
def test_what_is_said_to_be_asked_is_what_the_protocol_asks(kind, count, monkeypatch):
    """The report may not import the protocols, so its own list of their alarms is held against them here."""
    if kind == "moe" and not count:
        return  # it refuses a model without experts
    told = []
    for code in (*TRUST, *WORTH, "certificate_broken"):
        monkeypatch.setattr(alarm_functions, code, lambda *_, code=code: told.append(code))
    protocol = PROTOCOLS[kind]()
    scope = Scope(classes=10, pixels=3072, experts=count, surrogates=() if count else ("other",))
    rows = [one for check in protocol.checks(scope) for one in check.rows()]
    bits = {one.name: np.ones(4, dtype=bool) for one in rows}
    names = [one.name for one in rows if one.name.startswith("expert-")]
    facts = {name: np.zeros(4) for alone in names for name in (f"{alone}/clean", f"{alone}/robust")}
    if kind in ("masking", "full"):
        facts["zero_gradient"] = np.zeros(4)
    protocol.alarms(Findings(bits, defaultdict(lambda: np.zeros(4), facts), 10))
    lines = [row(one.name, 0.5) for one in rows if one.threat.eps > 0]
    found = result(kind, lines, [worst(0.5, lines)], gate=count, facts={name: share(0.0) for name in facts})
    always = {"randomized", *(("gate_collapse", "no_specialisation") if count else ())}  # by every protocol, in tabulate
    assert {*asked(evaluated(found))} - always == {*told}


# ---- experts


def test_experts_by_themselves_and_as_the_system_sees_them():
    said = text(experts([evaluated(moe())]))
    assert "frozen-routing its experts, routing frozen (RA-E) 45.00 38" in said
    assert "routing its routing alone (RA-R) 70.00" in said
    assert "sends 25.00 % (18.93 to 32.24) of 160 attacked images to another expert" in said
    assert "expert 2 70.00 63.32 to 75.93 30.00 24.07 to 36.68 60.00 53.08 to 66.54 200" in said
    assert "oracle 95.00 91" in said
    assert "uniform gate 65.00" in said
    assert "the gate 80.00" in said
    assert "softened-1-10 a softened copy (temperatures: gate 1, experts 10) 42.00 35" in said
    assert "†" not in said


def test_survivors_only_are_marked_and_stand_beside_restarts_of_the_same_price():
    said = text(experts([evaluated(full())]))
    assert "softened-10-100 a softened copy (temperatures: gate 10, experts 100) 38.00 †" in said
    assert said.index("restarts-gradient the whole model 40.00 †") < said.index("softened-10-100 a softened")
    assert "reweighed its experts, reweighed by what they can still change 40.00 †" in said
    assert "no number of its own" in said


def test_experts_that_nobody_attacked_have_no_section():
    assert experts([evaluated(table3()), evaluated(standard()), evaluated(autoattack())]) is None


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
    lower = evaluated(result("table3", odd, [worst(0.1, odd)]), "table3-spacenormalized")
    runs = [evaluated(table3()), lower]
    assert headline(runs) == THREAT
    assert [one.by.name for one in verdicts(runs, THREAT)] == ["table3"]
    assert "Also, at Linf 8/255 in standardised space: 10.00 %" in text(summary(runs))
    assert [entry.by.name for entry in overviews(runs)[0].lines[0].entries[:2]] == ["table3", "table3"]


def test_radii_that_serve_the_alarms_are_no_worst_cases_to_quote():
    said = text(report.page([evaluated(full())], {"Results": report.FIGURES["Results"]}))
    assert "16/255" not in said
    assert "2/255" in text(report.page([evaluated(standard())], {"Results": report.FIGURES["Results"]}))


# ---- curves, models from elsewhere, the whole page


def test_pgd_against_its_radius_where_several_were_run():
    drawn = str(curves([evaluated(one) for one in (full(), standard(), moe(), autoattack())]))
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", drawn)
    assert titles == [f"Accuracy against the PGD radius, {name} on cifar10, test split" for name in ("full", "standard")]
    numbers = text(drawn)
    assert "mix 0.0627 pgd-linf16 20.00" in numbers
    assert "pgd-huge" not in numbers
    assert "the line cannot rise" in numbers
    assert curves([evaluated(moe()), evaluated(autoattack())]) is None


def test_a_model_from_elsewhere_was_not_trained_here():
    one = evaluated(table3(run="theirs", gate=0), method=STRANGER, folder="runs/theirs")
    said = text(provenance([one]))
    assert "Trained not here" in said
    assert "Trained ?" not in said
    for words in ("their.net:make", "w.safetensors", "standardised by mean [0.5] and std [0.25]", "probabilities", "sha256 cdcd"):
        assert words in said, words
    known = "dwf evaluate --model their.net:make --data cifar10 --out runs/theirs --weights w.safetensors --mean 0.5 --std 0.25"
    assert command(one) == f"{known} --protocol table3 --samples 200"
    assert ask(one, "full") == f"{known} --protocol full"
    page = text(report.page([one], report.FIGURES))
    assert "theirs returns probabilities and was attacked through their logarithm" in page
    assert "? threads" not in page


def test_the_command_names_surrogates_and_the_settings_behind_a_hash():
    assert command(evaluated(full())).endswith("--protocol full --samples 200 --surrogate other")
    hashed = replace(evaluated(full()), name="full-0123456789ab")
    assert f"--set protocol.eps={EPS}" in command(hashed)


def test_a_page_of_all_protocols(tmp_path):
    mix = write(tmp_path / "mix", table3(), full(), moe(), standard())
    plain = write(tmp_path / "at", table3(**PLAIN), autoattack(**PLAIN))
    paths = report.write([mix, plain], tmp_path / "report.html")
    html = paths[0].read_text()
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    for heading in ("Experts", "Accuracy against the attack&#39;s strength", "Every attack"):
        assert f">{heading}</h2>" in html
    results = [one.result for one in read_all([mix, plain])]
    lines = [len(one.attacks) + 1 + (4 if one.protocol.name == "standard" else 1) for one in results]  # clean and worst cases
    assert len(list(reader.DictReader(io.StringIO(paths[1].read_text())))) == sum(lines)


def test_images_of_a_protocol_that_attacks_survivors_only(tmp_path):
    folder = write(tmp_path / "mix", standard(), moe())
    clean = np.zeros((2, 3, 8, 8), dtype=np.float32)
    arrays = {"index": np.arange(2), "label": np.arange(2), "clean": clean, "clean_prediction": np.arange(2)}
    eps = {"fgsm_eps": np.float64(EPS), "pgd_eps": np.float64(EPS)}
    np.savez(folder / "eval" / "standard.images.npz", **arrays, **eps)
    np.savez(folder / "eval" / "moe.images.npz", **arrays, **eps, pgd=clean, pgd_prediction=np.arange(2))
    grids = str(report.FIGURES["Images"](report.read(folder)))
    assert "mix, moe: images under PGD at Linf 8/255" in grids
    assert "FGSM" not in grids
    assert "standard" not in grids
