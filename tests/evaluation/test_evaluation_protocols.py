"""What the protocols ask, and what their settings refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dwf.core.errors import Refused
from dwf.core.types import Batch, Threat
from dwf.evaluation import PROTOCOLS, AutoAttack, Full, Masking, Moe, Standard, Table3, Transfer
from dwf.evaluation.check import Scope, Standing
from dwf.evaluation.threats import label
from dwf.evaluation.victim import Victim
from dwf.models import Mixture

SCOPE = Scope(classes=10, pixels=256, deviations=(0.35,))
MIXTURE = Scope(classes=10, pixels=256, experts=3)


def names(protocol: object, scope: Scope = SCOPE) -> list[str]:
    return [row.name for check in protocol.checks(scope) for row in check.rows()]  # type: ignore[attr-defined]


def test_standard_goes_from_small_radii_to_large_ones() -> None:
    assert names(Standard()) == [
        "clean",
        *("pgd-50-linf2", "apgd-ce-linf2", "apgd-t-linf2", "pgd-50-linf4", "apgd-ce-linf4", "apgd-t-linf4"),
        *("pgd-50-linf8", "apgd-ce-linf8", "apgd-t-linf8", "pgd-50-l2-0.5", "apgd-ce-l2-0.5", "apgd-t-l2-0.5"),
    ]
    assert Standard().threat == Threat(eps=8 / 255)
    assert Standard(linf=(), l2=(0.5, 1)).threat == Threat(norm="l2", eps=1)
    with pytest.raises(Refused, match="'linf' and 'l2' are both empty; give at least one radius"):
        Standard.read({"linf": [], "l2": []})


@pytest.mark.parametrize(("classes", "last"), [(2, "apgd-ce-linf2"), (3, "apgd-dlr-linf2"), (4, "apgd-t-linf2")])
def test_few_classes_get_the_attacks_that_they_have(classes: int, last: str) -> None:
    assert names(Standard(linf=(2 / 255,), l2=()), Scope(classes=classes, pixels=1))[-1] == last
    assert "square" in names(Full(), Scope(classes=classes, pixels=1))


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("scope", [{}, {"experts": 2}])
def test_what_sees_less_of_the_model_is_for_survivors_of_every_white_box_row(classes: int, scope: dict[str, int]) -> None:
    asked = Scope(classes, 1, **scope)
    everything, white = Masking()._everything(classes), [row for check in Masking().white(asked) for row in check.rows()]
    (followed,) = {row.settings["on"] for check in Masking().blind(asked) for row in check.rows()}
    assert followed == f"survivors of {', '.join(everything)}"
    if classes > 2:
        assert white[-1].name == everything[0]
        assert white[-1].settings["on"] == "survivors of all before"
    else:
        assert set(everything) == {row.name for row in white if 0 < row.threat.eps <= Masking().eps}


@pytest.mark.parametrize("kind", ["full", "masking", "moe", "standard", "transfer"])
def test_every_attack_of_a_random_model_can_average_its_draws(kind: str) -> None:
    scope = Scope(classes=10, pixels=256, experts=2, permutations=((0, 1), (1, 0)))
    rows = [row for check in PROTOCOLS[kind].read({"eot": 7}).checks(scope) for row in check.rows()]  # type: ignore[attr-defined]
    draws = {row.name: row.settings.get("draws", row.settings.get("eot")) for row in rows if row.threat.eps > 0}
    alone = [name for name, number in draws.items() if number != 7]
    plain = {"fgsm", "pgd-50", "pgd-50-worst", "pgd-100", "pgd-100-worst", "pgd-100x3", "pgd-100x3-worst", "pgd-eot20"}
    held = {"permutation-1-2", "permutation-2-1", "worst-permutation", "expert-1", "expert-2"}  # of several attacks, in a list
    assert set(alone) <= plain | held
    assert all(each["draws"] == 7 for row in rows if row.name.startswith("expert") for each in row.settings["attacks"])
    assert all(each["draws"] == 1 for row in rows if "permutation" in row.name for each in row.settings["attacks"])


def test_full_holds_masking_moe_and_transfer() -> None:
    full = set(names(Full(), MIXTURE))
    assert full >= set(names(Masking(), MIXTURE))
    assert full >= set(names(Transfer(), MIXTURE))
    inside = {"frozen-routing", "routing", "expert-1", "expert-2", "expert-3", "weighted-logits", "surrogate", "reweighed"}
    assert full >= inside
    assert not inside & set(names(Full())), "a single net has no experts"
    assert "autoattack" not in full, "the reference is what this is compared with"


def test_surrogates_take_the_experts_place() -> None:
    given = Scope(classes=10, pixels=1, experts=3, surrogates=("theirs",))
    assert [name for name in names(Transfer(), given) if name.startswith("transfer")] == ["transfer-theirs"]
    assert [name for name in names(Transfer(), MIXTURE) if name.startswith("transfer")] == [
        f"transfer-expert-{i}" for i in (1, 2, 3)
    ]


def test_moe_needs_experts() -> None:
    with pytest.raises(Refused, match="attacks experts and routing, and this model has none; use protocol 'masking' or 'full'"):
        Moe().checks(SCOPE)


def test_autoattack_needs_four_classes() -> None:
    with pytest.raises(Refused, match="needs 4 classes and the data have 3; use protocol 'full'"):
        AutoAttack().checks(Scope(classes=3, pixels=1))
    assert names(AutoAttack(version="rand"), Scope(classes=3, pixels=1)) == ["clean", "autoattack"]
    with pytest.raises(Refused, match="needs 3 classes and the data have 2; use protocol 'full'"):
        AutoAttack(version="rand").checks(Scope(classes=2, pixels=1))


def test_the_reference_tries_all_wrong_classes_where_there_are_fewer_than_its_nine(batch: Batch) -> None:
    pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
    torch.manual_seed(0)
    target = Victim(nn.Sequential(nn.Flatten(), nn.Linear(256, 5)), torch.float32, 0)
    few = Batch(batch.x[:8], target.module(batch.x[:8]).argmax(1), batch.index[:8])
    clean, reference = AutoAttack(eps=0.02).checks(Scope(classes=5, pixels=256))
    standing = Standing(few)
    standing.add(clean.rows(), clean(target, few, standing).bits)
    assert reference.rows()[0].settings["targets"] == 4
    assert reference.rows()[0].precision == "float32"
    assert reference(target, few, standing).bits["autoattack"].sum() < 8


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_every_protocol_has_a_headline_and_distinct_rows(kind: str) -> None:
    protocol = PROTOCOLS[kind]()
    rows = names(protocol, MIXTURE)
    assert rows[0] == "clean"
    assert len(rows) == len(set(rows))
    assert protocol.threat.eps > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["autoattack", "full", "masking", "moe", "transfer"])
def test_the_radius_follows_the_norm_and_is_refused_early(kind: str) -> None:
    assert PROTOCOLS[kind].read({"norm": "l2"}).threat == Threat(norm="l2", eps=0.5)  # type: ignore[attr-defined]
    assert PROTOCOLS[kind].read({"norm": "l2", "eps": 1}).threat.eps == 1  # type: ignore[attr-defined]
    assert PROTOCOLS[kind]().threat == Threat(eps=8 / 255)  # type: ignore[attr-defined]
    with pytest.raises(Refused, match="below 1; for 8-bit steps write '8/255'"):
        PROTOCOLS[kind].read({"eps": 8})


def test_radii_that_would_share_rows_are_refused() -> None:
    with pytest.raises(Refused, match=r"two radii would share the rows 'linf7\.65'"):
        Standard.read({"linf": [0.03, 0.030001]})
    with pytest.raises(Refused, match="temperatures"):
        Masking.read({"temperatures": [[0, 10]]})


def test_labels_tell_norms_apart() -> None:
    assert [label(Threat(eps=8 / 255)), label(Threat(norm="l2", eps=0.5))] == ["linf8", "l2-0.5"]


def test_a_radius_in_the_standardised_space_is_a_share_of_the_deviation(mixture: Mixture, batch: Batch) -> None:
    protocol = Table3(eps=0.1, fgsm_eps=(0.05,), steps=(2,), final=3, restarts=1, space="normalized")
    checks, standing = protocol.checks(SCOPE), Standing(batch)
    target = Victim(mixture, torch.float32, 0)
    for check in checks[1:]:
        for kind, x in check(target, batch, standing).images.items():
            change = (x - batch.x).abs().max().item()
            assert 0.5 * 0.1 * 0.35 < change <= 0.1 * 0.35 + 1e-6, kind
    assert all(row.threat.scale == (0.35,) for check in checks[1:] for row in check.rows())


def test_the_reference_autoattack_breaks_what_apgd_breaks(mixture: Mixture, batch: Batch, tmp_path: Path) -> None:
    pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
    protocol, standing = AutoAttack(eps=0.05), Standing(batch)
    target = Victim(mixture, torch.float32, 0)
    mixture.zero_grad()
    before = torch.random.get_rng_state()
    for check in protocol.checks(SCOPE):
        bits = check(target, batch, standing).bits
        standing.add(check.rows(), bits)
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's random numbers are his"
    ours = Standing(batch)
    for check in Standard(linf=(0.05,), l2=(), steps=20).checks(SCOPE):
        ours.add(check.rows(), check(target, batch, ours).bits)
    assert abs(int(standing.under(protocol.threat).sum()) - int(ours.under(protocol.threat).sum())) <= 2
    assert not any(parameter.grad is not None for parameter in mixture.parameters())


def test_the_reference_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch, batch: Batch, mixture: nn.Module) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    target, standing = Victim(mixture, torch.float32, 0), Standing(batch)
    with pytest.raises(Refused, match="needs the authors' code; install it with: pip install pyautoattack"):
        AutoAttack().checks(SCOPE)[1](target, batch, standing)
