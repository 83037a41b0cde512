"""What makes DWF what the paper describes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tiny_methods import EIGHT, Killed, Repeated, batch, build, killer, ready, run, state, tiny
from torch import Tensor, nn

from dwf.attacks import Fgsm, Pgd
from dwf.core.errors import Refused
from dwf.methods import Dwf
from dwf.models import AttackCopy, Mixture
from dwf.training.checkpoint import load_weights
from dwf.training.mover import Mover
from dwf.training.plan import Phase
from dwf.verbs import train


class Seen(NamedTuple):
    """One call of an attack by the method."""

    settings: Any
    victim: nn.Module
    x: Tensor
    adversarial: Tensor
    victim_logits: Tensor
    victim_logits_apart: Tensor
    """Of the first two images without the others."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """Every attack of the method, in order."""
    calls: list[Seen] = []
    for name, kind in (("Fgsm", Fgsm), ("Pgd", Pgd)):
        monkeypatch.setattr(f"dwf.methods.regimes.{name}", _recording(kind, calls))
    return calls


def _recording(kind: type[Fgsm] | type[Pgd], calls: list[Seen]) -> Callable[..., Any]:
    def make(**settings: Any) -> Callable[..., Tensor]:
        attack = kind(**settings)

        def call(victim: nn.Module, x: Tensor, y: Tensor, noise: Any, gradient: Tensor | None) -> Tensor:
            adversarial = attack(victim, x, y, noise, gradient=gradient)
            with torch.no_grad():
                calls.append(Seen(attack, victim, x, adversarial, victim(x), victim(x[:2])))
            return adversarial

        return call

    return make


def phases(**changes: Any) -> dict[str, Phase]:
    method = tiny("dwf", **changes)
    return {phase.name: phase for phase in method.phases(build(method))}


def updates(phase: Phase, count: int, seed: int = 0) -> list[Any]:
    return list(phase.round(ready(phase), Repeated(batch(), count, seed=seed)))


def inputs_of(module: nn.Module) -> list[Tensor]:
    """What the module itself, and no copy of it, is asked in training mode."""
    asked: list[Tensor] = []

    def note(found: nn.Module, args: tuple[Tensor]) -> None:
        if found is module and found.training:
            asked.append(args[0].detach().clone())

    module.register_forward_pre_hook(note)
    return asked


def test_the_experts_stand_in_the_order_benign_fgsm_pgd() -> None:
    named = phases(fgsm=2, pgd=2, gate_warmup=0)
    assert list(named) == ["benign-1", "fgsm-1", "fgsm-2", "pgd-1", "pgd-2", "joint"]
    mixture = named["joint"].subject
    assert isinstance(mixture, Mixture)
    assert [phase.subject for phase in named.values()][:-1] == list(mixture.bank)
    assert named["joint"].needs == ("benign-1", "fgsm-1", "fgsm-2", "pgd-1", "pgd-2")
    assert all(named[name].needs == () for name in named if name != "joint"), "experts run anywhere, side by side"


def test_the_gate_alone_comes_between_where_it_is_asked_for() -> None:
    assert list(phases(gate_warmup=2)) == ["benign-1", "fgsm-1", "pgd-1", "gate", "joint"]
    assert phases(gate_warmup=2)["joint"].needs == ("benign-1", "fgsm-1", "pgd-1", "gate")


def test_the_mixture_is_the_weighted_sum_of_logits() -> None:
    mixture = build(tiny("dwf")).eval()
    assert isinstance(mixture, Mixture)
    x = batch().x
    weights, opinions = mixture.gate(x), torch.stack([expert(x) for expert in mixture.bank], 1)
    assert torch.allclose(weights.sum(1), torch.ones(len(x)))
    expected = sum(weights[:, i, None] * opinions[:, i] for i in range(3))
    assert torch.allclose(mixture(x), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["fgsm-1", "joint"])
def test_radii_come_from_the_set_vary_and_repeat_on_replay(name: str, seen: list[Seen]) -> None:
    updates(phases(fgsm_eps=(0.01, 0.02, 0.05))[name], 12)
    radii = [call.settings.threat.eps for call in seen if isinstance(call.settings, Fgsm)]
    assert len(radii) == 12
    assert set(radii) == {0.01, 0.02, 0.05}
    seen.clear()
    updates(phases(fgsm_eps=(0.01, 0.02, 0.05))[name], 12)
    assert [call.settings.threat.eps for call in seen if isinstance(call.settings, Fgsm)] == radii
    seen.clear()
    updates(phases(fgsm_eps=(0.01, 0.02, 0.05))[name], 12, seed=1)
    assert [call.settings.threat.eps for call in seen if isinstance(call.settings, Fgsm)] != radii


@pytest.mark.parametrize("name", ["pgd-1", "joint"])
def test_step_counts_come_from_the_set_vary_and_repeat_on_replay(name: str, seen: list[Seen]) -> None:
    updates(phases(pgd_steps=(1, 2, 3))[name], 12)
    counts = [call.settings.steps for call in seen if isinstance(call.settings, Pgd)]
    assert len(counts) == 12
    assert set(counts) == {1, 2, 3}
    seen.clear()
    updates(phases(pgd_steps=(1, 2, 3))[name], 12)
    assert [call.settings.steps for call in seen if isinstance(call.settings, Pgd)] == counts


def test_the_papers_sets_are_the_defaults() -> None:
    assert Dwf().fgsm_eps == tuple(n / 100 for n in range(1, 10))
    assert Dwf().pgd_steps == (10, 20, 30, 40, 50)
    assert (Dwf().benign, Dwf().fgsm, Dwf().pgd) == (1, 4, 4)


@pytest.mark.parametrize("name", ["fgsm-1", "pgd-1"])
def test_an_attacked_expert_learns_from_adversarial_images_only(name: str, seen: list[Seen]) -> None:
    phase = phases()[name]
    asked = inputs_of(phase.subject)
    updates(phase, 2)
    assert len(asked) == len(seen) == 2
    for x, call in zip(asked, seen, strict=True):
        assert torch.equal(x, call.adversarial)
        assert not torch.equal(x, call.x)


def test_the_benign_expert_learns_from_the_images_themselves(seen: list[Seen]) -> None:
    phase = phases()["benign-1"]
    asked = inputs_of(phase.subject)
    updates(phase, 1)
    assert seen == []
    assert torch.equal(asked[0], batch().x)


def test_a_joint_step_is_one_pass_over_clean_fgsm_and_pgd_images(seen: list[Seen]) -> None:
    phase = phases()["joint"]
    assert isinstance(phase.subject, Mixture)
    asked, gated = inputs_of(phase.subject.bank), inputs_of(phase.subject.gate.normalize)
    (update,) = updates(phase, 1)
    (x,), (gate_x,) = asked, gated
    fgsm, pgd = seen
    assert isinstance(fgsm.settings, Fgsm)
    assert isinstance(pgd.settings, Pgd)
    assert torch.equal(x, torch.cat([batch().x, fgsm.adversarial, pgd.adversarial]))
    assert torch.equal(gate_x, x)
    parts = [update.log[f"loss_{kind}"] for kind in ("clean", "fgsm", "pgd")]
    assert update.loss.item() == pytest.approx(sum(parts).item() / 3)


def test_both_joint_attacks_hit_the_whole_mixture_with_its_present_weights(seen: list[Seen]) -> None:
    phase = phases()["joint"]
    subject = ready(phase)
    mover = Mover(phase.learners["all"])
    x = batch().x
    present = [_logits(subject, x)]
    for update in phase.round(subject, Repeated(batch(), 3)):
        mover.take(update, 0.0)
        present.append(_logits(subject, x))
    assert len(seen) == 6
    for number, call in enumerate(seen):
        assert isinstance(call.victim, AttackCopy)
        assert isinstance(call.victim.inner, Mixture)
        assert torch.allclose(call.victim_logits, present[number // 2], atol=1e-4)
    assert not torch.allclose(present[0], present[2], atol=1e-3), "the steps changed too little to tell"


@torch.no_grad()
def _logits(subject: nn.Module, x: Tensor) -> Tensor:
    """In eval mode, as attacks see the model."""
    logits: Tensor = subject.eval()(x)
    subject.train()
    return logits


@pytest.mark.parametrize("name", ["fgsm-1", "pgd-1", "joint"])
def test_attacks_see_running_statistics_unless_asked_for_the_batchs(name: str, seen: list[Seen]) -> None:
    updates(phases(batch_norm="eval")[name], 1)
    assert torch.allclose(seen[-1].victim_logits[:2], seen[-1].victim_logits_apart, atol=1e-5)
    seen.clear()
    phase = phases(batch_norm="batch")[name]
    before = state(phase.subject)
    updates(phase, 1)
    assert not torch.allclose(seen[-1].victim_logits[:2], seen[-1].victim_logits_apart, atol=1e-3)
    after = state(phase.subject)
    counted = [key for key in after if key.endswith("num_batches_tracked")]
    assert counted
    assert all(int(after[key] - before[key]) == 1 for key in counted), "an attack counted as a training pass"


def test_attacks_by_batch_statistics_leave_the_running_ones_alone(seen: list[Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    expert = phases()["pgd-1"].subject.train()
    before = state(expert)
    victim = AttackCopy(expert, batch_statistics=True)
    logits = victim(batch().x)
    assert torch.allclose(logits, expert(batch().x), atol=1e-4), "the batch's statistics are those of training mode"
    expert.load_state_dict(before)
    Pgd(steps=3)(victim, batch().x, batch().y, next(iter(Repeated(batch(), 1))).noise)
    assert all(torch.equal(tensor, before[name]) for name, tensor in expert.state_dict().items())


def test_the_gate_has_its_own_rate() -> None:
    for name, number in (("joint", 1), ("gate", 0)):
        phase = phases(gate_learning_rate=0.3)[name]
        assert isinstance(phase.subject, Mixture)
        groups = phase.learners["all"].groups
        assert groups[number].learning_rate == 0.3
        assert {id(p) for p in groups[number].parameters} == {id(p) for p in phase.subject.gate.parameters()}
    mover = Mover(phases(gate_learning_rate=0.3)["joint"].learners["all"])
    assert [group["lr"] for group in mover.optimizer.param_groups] == [0.05, 0.3]


def test_the_warm_up_moves_the_gate_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(Killed):  # as soon as the joint phase begins
        train(run(tiny("dwf")), tmp_path, device="cpu", listeners=[killer(5, "phase")])
    warmed = load_weights(tmp_path / "phases" / "gate" / "model.safetensors")
    for number, name in enumerate(["benign-1", "fgsm-1", "pgd-1"]):
        expert = load_weights(tmp_path / "phases" / name / "model.safetensors")
        assert any(key.endswith("running_mean") for key in expert)
        for key, tensor in expert.items():
            assert torch.equal(tensor, warmed[f"bank.{number}.{key}"]), f"{name}: {key}"
    fresh = _fresh_gate()
    assert all(not torch.equal(warmed[f"gate.{key}"], tensor) for key, tensor in fresh.items() if "normalize" not in key)


def _fresh_gate() -> dict[str, Tensor]:
    from dwf.run import build as build_run

    model = build_run(run(tiny("dwf")), EIGHT, torch.device("cpu"))
    assert isinstance(model, Mixture)
    return model.gate.state_dict()


def test_the_joint_phase_moves_experts_and_gate(tmp_path: Path) -> None:
    train(run(tiny("dwf")), tmp_path, device="cpu")
    joint, gate = (load_weights(tmp_path / "phases" / name / "model.safetensors") for name in ("joint", "gate"))
    moved = {key.split(".")[0] for key in joint if not torch.equal(joint[key], gate[key])}
    assert moved == {"bank", "gate"}


def test_a_mixture_of_nobody_is_refused() -> None:
    with pytest.raises(Refused, match="a mixture needs experts"):
        Dwf.read({"benign": 0, "fgsm": 0, "pgd": 0})


@pytest.mark.parametrize(("change", "words"), [
    ({"fgsm_eps": ()}, "'fgsm_eps' is "),
    ({"fgsm_eps": (8,)}, "write '8/255'"),
    ({"pgd_steps": ()}, "'pgd_steps' is "),
    ({"pgd_steps": (0,)}, "'pgd_steps"),
    ({"batch_norm": "train"}, "'batch_norm' is 'train': input should be 'eval' or 'batch'"),
])  # fmt: skip
def test_wrong_settings_are_refused_in_a_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        Dwf.read(change)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
