"""What the report says of alarms: each once, which were asked, and how likely a false one is; on results built by hand."""

from collections import defaultdict

import numpy as np
import pytest
from report_protocols import evaluated, flag, full, moe, result, row, share, standard, table3, worst
from report_words import PLAIN, text

from dwf.evaluation import PROTOCOLS
from dwf.evaluation import flags as alarm_functions
from dwf.evaluation.check import Findings, Scope
from dwf.report.coverage import TRUST, WORTH, asked, coverage
from dwf.report.flags import flags


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
@pytest.mark.parametrize("count", [0, 1, 3])
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
    always = {"randomized", *(("gate_collapse", "no_specialisation") if count > 1 else ())}  # by every protocol, in tabulate
    assert {*asked(evaluated(found))} - always == {*told}
