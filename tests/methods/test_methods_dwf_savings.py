"""DWF's savings: what each computes, what it costs, what may be shared, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from test_methods_cost import passes
from test_methods_reuse import decided, named
from tiny_methods import SMALL, Killed, Repeated, batch, build, killer, ready, run, state, tiny, trained
from torch import Tensor

from dwf.attacks import Fgsm, Pgd
from dwf.core import journal
from dwf.core.types import Threat
from dwf.methods import Dwf
from dwf.methods.regimes import Regimes
from dwf.models import AttackCopy, Mixture, ResNet
from dwf.training.checkpoint import load_weights
from dwf.training.optim import Recipe
from dwf.training.plan import Draw

SHORT = SMALL[Recipe].model_copy(update={"epochs": 2})
BENIGN = {"warm_start": "benign", "warm": SHORT, "gate_warmup": 0}
KIND = {"warm_start": "kind", "warm": SHORT, "gate_warmup": 0, "fgsm": 2, "pgd": 2}
TWO, THREE = ResNet(depth=10, width=2), ResNet(depth=10, width=3)
SAVINGS: dict[str, dict[str, Any]] = {
    "random start": {"fgsm_start": "uniform"},
    "shared gradient": {"pgd_start": "image"},
    "nothing to share": {"pgd_start": "image", "fgsm_start": "uniform"},
    "nobody to share with": {"pgd_start": "image", "joint_regimes": ("clean", "pgd")},
    "ramp of steps": {"steps_ramp": 0.5, "trades": 1},
    "long ramp": {"steps_ramp": 1.0, "radius_ramp": 0.25},
    "warm from benign": BENIGN,
    "warm from their kind": KIND,
    "all": {**KIND, "fgsm_start": "uniform", "pgd_start": "image", "steps_ramp": 0.5, "radius_ramp": 0.25, "trades": 2},
}


def drawn(progress: float = 0.5, number: int = 0) -> Draw:
    (one,) = [one for n, one in enumerate(Repeated(batch(), number + 1)) if n == number]
    return Draw(one.x, one.y, one.noise, Random(number), progress)


def regimes(**changes: Any) -> Regimes:
    usual: dict[str, Any] = {
        **{"radii": (0.02, 0.05), "fgsm_start": "image", "threat": Threat(eps=0.1), "step": 0.03},
        **{"steps": (1, 4, 6), "pgd_start": "image"},
    }
    return Regimes(**{**usual, **changes})


@pytest.mark.parametrize("name", SAVINGS)
def test_every_saving_costs_what_it_states(name: str) -> None:
    method = tiny("dwf", **{"pgd_steps": (4,), **SAVINGS[name]})
    stated = method.cost()
    for phase in method.phases(build(method)):
        counted = passes(phase, batches=8)
        assert (counted["forwards"], counted["backwards"]) == stated[phase.kind], phase.name


def test_what_is_saved() -> None:
    def cost(**changes: Any) -> dict[str, float]:
        return {name: passes.forwards for name, passes in Dwf(pgd_steps=(2, 4), **changes).cost().items()}

    assert cost() == {"benign": 1, "fgsm": 2, "pgd": 4, "joint": 7}
    assert cost(pgd_start="image") == {**cost(), "joint": 6}
    assert cost(pgd_start="image", fgsm_start="uniform") == cost()
    assert cost(steps_ramp=1) == {**cost(), "pgd": 3}
    assert cost(steps_ramp=0.5) == {**cost(), "pgd": 3.5}
    assert cost(radius_ramp=0.5) == cost()
    assert cost(warm_start="benign") == cost()


def test_fgsm_from_a_random_start_steps_a_quarter_beyond_the_radius() -> None:
    expert, one = build(tiny("plain")).eval(), drawn()
    ours = regimes(radii=(0.05,), fgsm_start="uniform").fgsm(expert, one)
    theirs = Fgsm(threat=Threat(eps=0.05), start="uniform", step=1.25 * 0.05)(expert, one.x, one.y, one.noise)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_a_shared_gradient_makes_the_same_images_bit_for_bit(batch_statistics: bool) -> None:
    victim = AttackCopy(build(tiny("dwf")), batch_statistics=batch_statistics)
    for number in range(6):
        one = drawn(number=number)
        random = Random(number)
        fgsm = Fgsm(threat=Threat(eps=random.choice((0.02, 0.05))))(victim, one.x, one.y, one.noise)
        steps = random.choice((1, 4, 6))
        pgd = Pgd(threat=Threat(eps=0.1), step=0.03, steps=steps, start="image")(victim, one.x, one.y, one.noise)
        shared = regimes().images(("fgsm", "clean", "pgd"), victim, one)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(shared, (fgsm, one.x, pgd), strict=True))


def test_steps_grow_from_one_to_what_is_drawn() -> None:
    ramp = regimes(steps=(4,), steps_ramp=0.5)
    grown = [ramp.pgd_strength(drawn(number / 16))[2] for number in range(16)]
    assert grown == [1, 1, 2, 2, 3, 3, 4, 4] + [4] * 8
    assert ramp.mean_steps == sum(grown) / 16
    assert regimes(steps=(3, 8), steps_ramp=1.0).mean_steps == (2 + 4.5) / 2


def test_radii_and_steps_in_them_grow_from_nothing() -> None:
    ramp = regimes(radius_ramp=0.5)
    assert [ramp.pgd_strength(drawn(p))[0].eps for p in (0.0, 0.25, 0.5, 0.75)] == [0, 0.05, 0.1, 0.1]
    assert [ramp.pgd_strength(drawn(p))[1] for p in (0.0, 0.25, 0.5, 0.75)] == [0, 0.015, 0.03, 0.03]
    expert = build(tiny("plain")).eval()
    for start in ("image", "uniform"):
        ramp = regimes(radius_ramp=0.5, radii=(0.08,), fgsm_start=start, pgd_start=start)
        for progress, fgsm, pgd in ((0.0, 0.0, 0.0), (0.25, 0.04, 0.05), (0.75, 0.08, 0.1)):
            one = drawn(progress)
            for image, eps in ((ramp.fgsm(expert, one), fgsm), (ramp.pgd(expert, one), pgd)):
                assert (image - one.x).abs().max().item() == pytest.approx(eps, rel=1e-5, abs=1e-7)


def test_the_joint_phase_attacks_at_full_strength() -> None:
    phase = named(tiny("dwf", pgd_steps=(4,), steps_ramp=1.0, radius_ramp=1.0))["joint"]
    assert passes(phase)["forwards"] == 1 + 4 + 3, "though it has only begun"
    (update,) = phase.round(ready(phase), Repeated(batch(), 1))
    assert update.log["loss_pgd"] > update.log["loss_clean"]


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        (BENIGN, {"benign-1": (), "benign-2": (), "fgsm-1": ("benign-1",), "pgd-1": ("benign-1",), "trades-1": ("benign-1",)}),
        (
            {**KIND, "pgd": 1},
            {**{f"{kind}-1": () for kind in ("benign", "fgsm", "pgd", "trades")}, "benign-2": ("benign-1",), "fgsm-2": ("fgsm-1",)},
        ),
    ],
    ids=["benign", "kind"],
)
def test_a_warm_expert_comes_after_its_source_and_is_trained_by_its_own_recipe(
    changes: dict[str, Any], needs: dict[str, tuple[str, ...]]
) -> None:
    method = tiny("dwf", **{"trades": 1, "benign": 2, **changes})
    phases = named(method)
    assert {name: phase.needs for name, phase in phases.items() if name != "joint"} == needs
    assert set(phases["joint"].needs) == set(needs)
    for name, sources in needs.items():
        assert phases[name].rounds == (2 if sources else 3), name
        assert phases[name].start is (phases[sources[0]].subject if sources else None)


@pytest.mark.parametrize(("changes", "warm"), [(BENIGN, {"fgsm-1": "benign-1", "pgd-1": "benign-1"}),
                                               (KIND, {"fgsm-2": "fgsm-1", "pgd-2": "pgd-1"})], ids=["benign", "kind"])  # fmt: skip
def test_a_warm_expert_starts_from_what_its_source_keeps(
    changes: dict[str, Any], warm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[int, dict[str, Tensor]] = {}
    for rounds in ("_fgsm_round", "_pgd_round"):
        monkeypatch.setattr(Dwf, rounds, _noting(getattr(Dwf, rounds), starts))
    trained(run(tiny("dwf", **changes), average=0.9, select="best_ra"), tmp_path)
    for name, source in warm.items():
        ours, kept = (load_weights(tmp_path / "phases" / phase / "model.safetensors") for phase in (name, source))
        assert any(_same(start, kept) for start in starts.values())
        assert not _same(ours, kept)


def _noting(rounds: Any, starts: dict[int, dict[str, Tensor]]) -> Any:
    """The same rounds, which note the weights that each expert begins with."""

    def round(self: Any, expert: Any, batches: Any) -> Iterator[Any]:
        starts.setdefault(id(expert), state(expert))
        yield from rounds(self, expert, batches)

    return round


def _same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.fixture(scope="module", params=["all", "warm from benign"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, bytes, list[dict[str, Any]]]:
    """A run with every option on, its model file and its journal, never interrupted."""
    chosen = run(tiny("dwf", **SAVINGS[request.param]), select="best_ra", patience=1, average=0.8)
    folder = tmp_path_factory.mktemp("whole")
    return chosen, trained(chosen, folder), records(folder)


def records(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in journal.read(folder / "train.jsonl")]


def test_a_run_that_is_stopped_again_and_again_equals_the_uninterrupted_one(whole: Any, tmp_path: Path) -> None:
    chosen, model, told = whole
    stops, cut = 0, b""
    while not cut:
        try:
            cut = trained(chosen, tmp_path, [killer(2)], resume=True)
        except Killed:
            stops += 1
    assert stops >= 2
    assert cut == model
    assert records(tmp_path) == told


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ({}, BENIGN, {"benign-1"}),
        ({"fgsm": 2, "pgd": 2}, KIND, {"benign-1", "fgsm-1", "pgd-1"}),
        (BENIGN, {**BENIGN, "warm": SMALL[Recipe]}, {"benign-1"}),
        (BENIGN, KIND, {"benign-1"}),
        ({}, {"steps_ramp": 0.5}, {"benign-1", "fgsm-1"}),
        ({}, {"radius_ramp": 0.5}, {"benign-1"}),
        ({}, {"pgd_start": "image"}, {"benign-1", "fgsm-1"}),
    ],
)
def test_experts_share_what_does_not_concern_them(one: dict[str, Any], two: dict[str, Any], same: set[str]) -> None:
    first, second = tiny("dwf", **one), tiny("dwf", **two)
    ours, theirs = named(first), named(second)
    assert {name for name in ours if name in theirs and decided(first, ours[name]) == decided(second, theirs[name])} == same


def test_a_warm_expert_is_decided_by_what_its_source_has_learnt() -> None:
    method = tiny("dwf", **BENIGN)
    one, two = named(method)["fgsm-1"], named(method)["fgsm-1"]
    for phase, weight in ((one, 0.0), (two, 1.0)):
        assert phase.start is not None
        with torch.no_grad():
            next(phase.start.parameters()).fill_(weight)
        phase.subject.load_state_dict(phase.start.state_dict())
    assert decided(method, one) != decided(method, two)


def test_phases_that_learn_clean_images_alone_are_judged_by_them() -> None:
    goals = {name: phase.goal for name, phase in named(tiny("dwf")).items()}
    assert goals == {"benign-1": "sa", "fgsm-1": "ra", "pgd-1": "ra", "gate": "ra", "joint": "ra"}
    assert named(tiny("dwf", joint_regimes=("clean",)))["joint"].goal == "sa"
    assert [named(tiny("immunity", steps=steps))["train"].goal for steps in (0, 2)] == ["sa", "ra"]
    assert {name: p.goal for name, p in named(tiny("jtdmoe")).items()} == {"standard": "sa", "robust": "ra", "joint": "ra"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps_ramp": 0.5, "pgd": 0}, "'steps_ramp' is 0.5, but no expert is pretrained on such attacks; set it to 0"),
        ({"radius_ramp": 0.5, "pgd": 0, "fgsm": 0}, "'radius_ramp' is 0.5, but no expert"),
        ({"steps_ramp": 0.5, "pretrain": False}, "'steps_ramp' is 0.5, but no expert"),
        ({"steps_ramp": 1.5}, "steps_ramp"),
        ({"warm_start": "kind"}, "'warm_start' is 'kind', but no expert is pretrained from another; set it to 'none'"),
        ({"warm_start": "benign", "pretrain": False}, "'warm_start' is 'benign', but no expert is pretrained from another"),
        ({"warm_start": "benign", "benign": 0}, "there is no expert benign-1; raise 'benign'"),
        (
            {
                "warm_start": "benign",
                "backbones": (ResNet(depth=10, width=2), ResNet(depth=10, width=2), ResNet(depth=10, width=3)),
            },
            "pgd-1 cannot start from benign-1, whose net in 'backbones' is another; give both the same",
        ),
    ],
)
def test_savings_that_contradict_the_rest_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("(", r"\(")):
        tiny("dwf", **changes)


def test_warm_experts_may_have_nets_of_their_own_where_their_source_has_the_same() -> None:
    method = tiny("dwf", **{**KIND, "backbones": (TWO, THREE, THREE, TWO, TWO)})
    mixture = build(method)
    assert isinstance(mixture, Mixture)
    assert len(mixture.bank) == 5
