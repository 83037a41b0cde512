"""When a finished phase may be used again: settings that a phase ignores change nothing of it, and all others count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from tiny_methods import EIGHT, SMALL, Repeated, batch, build, ready, state, tiny

from dwf.core.fingerprint import fingerprint
from dwf.core.seeds import own_stream
from dwf.core.settings import Settings
from dwf.methods import METHODS
from dwf.models import Linear, ResNet
from dwf.training.mover import Mover
from dwf.training.optim import Recipe
from dwf.training.plan import Phase
from dwf.training.reuse import Shelf


def other(method: Settings, name: str) -> Any:
    """Another value for a setting, by its type."""
    if name == "backbones":  # the same nets, said one by one
        return (method.backbone,) * len(build(method).bank)
    if name == "warm":
        return SMALL[Recipe]
    return _other(getattr(method, name), type(method).model_fields[name].annotation)


def _other(value: Any, annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        return next(one for one in get_args(annotation) if one != value)
    match value:
        case Linear():  # has nothing to set
            return ResNet(depth=10, width=2)
        case Settings():
            field = next(n for n, v in value if isinstance(v, int | float) and not isinstance(v, bool))
            return value.model_copy(update={field: other(value, field)})
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value / 2 or 0.5
        case tuple():
            return value[:-1]
    raise AssertionError(f"a test must say what another {value!r} is")


def named(method: Any) -> dict[str, Phase]:
    return {phase.name: phase for phase in method.phases(build(method))}


def decided(method: Any, phase: Phase) -> str:
    return Shelf(method=method.model_dump(mode="json")).decided(phase)


def learnt(phase: Phase) -> dict[str, torch.Tensor]:
    """The weights after two steps."""
    movers = {name: Mover(learner) for name, learner in phase.learners.items()}
    for update in phase.round(ready(phase), Repeated(batch(), 2)):
        movers[update.learner].take(update, 0.1)
    return state(phase.subject)


IGNORED = [(kind, name) for kind in METHODS for name in sorted({n for p in named(tiny(kind)).values() for n in p.ignores})]


@pytest.mark.parametrize(("kind", "name"), IGNORED)
def test_what_a_phase_ignores_changes_nothing_of_it(kind: str, name: str) -> None:
    usual = {"gate_warmup": 0, **({"warm_start": "benign"} if name == "warm" else {})} if kind == "dwf" else {}
    one = tiny(kind, **usual)
    two = tiny(kind, **{**usual, name: other(one, name)})
    ours, theirs = named(one), named(two)
    ignoring = [phase for phase in ours.values() if name in phase.ignores and name in theirs[phase.name].ignores]
    assert ignoring
    for phase in ignoring:
        twin = theirs[phase.name]
        assert decided(one, phase) == decided(two, twin)
        assert (phase.rounds, phase.batch, phase.parts) == (twin.rounds, twin.batch, twin.parts)
        expected = learnt(twin)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in learnt(phase).items()), phase.name


@pytest.mark.parametrize("kind", METHODS)
def test_every_other_setting_counts(kind: str) -> None:
    one = tiny(kind)
    for name in type(one).model_fields:
        if name == "kind":
            continue
        two = one.model_copy(update={name: other(one, name)})
        theirs = named(two)
        for phase in named(one).values():
            ignored = name in phase.ignores and name in getattr(theirs.get(phase.name), "ignores", ())
            twin = replace(theirs.get(phase.name, phase), subject=phase.subject)
            assert (decided(one, phase) == decided(two, twin)) == ignored, f"{phase.name}: {name}"


@pytest.mark.parametrize(("change", "same"), [
    ({"fgsm_eps": (0.5,)}, {"benign-1", "pgd-1"}),
    ({"pgd_steps": (3,)}, {"benign-1", "fgsm-1"}),
    ({"batch_norm": "batch"}, {"benign-1"}),
    ({"gate_learning_rate": 0.5}, {"benign-1", "fgsm-1", "pgd-1"}),
    ({"fgsm": 3, "pgd": 2}, {"benign-1", "fgsm-1", "pgd-1"}),
    ({"backbones": (SMALL[ResNet],) * 3}, set()),  # a net may differ in what its first weights do not show, such as drop-out
    ({"experts": tiny("dwf").experts.model_copy(update={"epochs": 7})}, set()),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")  # fmt: skip
def test_experts_share_what_does_not_concern_them(change: dict[str, Any], same: set[str]) -> None:
    one, two = tiny("dwf"), tiny("dwf", **change)
    ours, theirs = named(one), named(two)
    assert {name for name in ours if decided(one, ours[name]) == decided(two, theirs[name])} == same


def test_an_expert_starts_from_the_same_weights_beside_any_others() -> None:
    few, many = named(tiny("dwf")), named(tiny("dwf", benign=2, fgsm=3, pgd=2))
    for name in ("benign-1", "fgsm-1", "pgd-1"):
        assert fingerprint(few[name].subject) == fingerprint(many[name].subject)
    experts = [fingerprint(phase.subject) for name, phase in many.items() if "-" in name]
    assert len(set(experts)) == len(experts) == 7, "and no two alike"


def test_first_weights_decide() -> None:
    method = tiny("plain")
    (phase,) = method.phases(build(method))
    torch.manual_seed(1)
    (luckier,) = method.phases(method.model(EIGHT))
    assert decided(method, phase) != decided(method, luckier)


def test_a_stream_of_its_own_depends_on_seed_and_purpose_and_disturbs_nobody() -> None:
    def draws(seed: int, purpose: str, before: int) -> tuple[float, float]:
        torch.manual_seed(seed)
        torch.rand(before)
        with own_stream(purpose):
            inside = torch.rand(()).item()
        return inside, torch.rand(()).item()

    assert draws(0, "a", 0)[0] == draws(0, "a", 5)[0]
    assert len({draws(0, "a", 0)[0], draws(1, "a", 0)[0], draws(0, "b", 0)[0]}) == 3
    assert draws(0, "a", 5)[1] == draws(0, "b", 5)[1]
