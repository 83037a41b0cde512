"""What every method promises. A new member of METHODS is tested by being listed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_methods import FOUR, TEN, Killed, Repeated, batch, build, killer, norms, ready, run, state, tiny, trained
from torch import Tensor, nn

from dwf.core import journal
from dwf.core.types import Spec
from dwf.methods import METHODS
from dwf.run import Run
from dwf.training.mover import Mover
from dwf.training.plan import Phase

EVERY_RUN = {kind: run(tiny(kind), select="best_val", average=0.9) for kind in METHODS}


@pytest.fixture(scope="module", params=METHODS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, bytes, list[dict[str, Any]]]:
    """A run, its model file and its journal, never interrupted."""
    chosen, folder = EVERY_RUN[request.param], tmp_path_factory.mktemp(request.param)
    return chosen, trained(chosen, folder), _without_times(folder)


every_method = pytest.mark.parametrize("kind", METHODS)


@every_method
@pytest.mark.parametrize("spec", [TEN, FOUR], ids=["10x1x16x16", "4x3x32x32"])
def test_builds_a_model_of_logits(kind: str, spec: Spec) -> None:
    logits = build(tiny(kind), spec).eval()(torch.rand(6, spec.channels, spec.height, spec.width))
    assert logits.shape == (6, len(spec.classes))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert ((logits.sum(1) - 1).abs() > 1e-3).all(), "rows that sum to 1 look like probabilities"
    assert ((logits.exp().sum(1) - 1).abs() > 1e-3).all(), "rows whose exponentials sum to 1 look like log-probabilities"


@every_method
def test_phases_are_named_once_and_come_after_what_they_need(kind: str) -> None:
    method = tiny(kind)
    phases = method.phases(build(method))
    names = [phase.name for phase in phases]
    assert names
    assert len(set(names)) == len(names)
    for number, phase in enumerate(phases):
        assert set(phase.needs) <= set(names[:number])
        assert phase.rounds >= 1
        assert phase.batch >= 1


@every_method
def test_phases_cover_every_parameter(kind: str) -> None:
    method = tiny(kind)
    model = build(method)
    moved_by_any = set()
    for phase in method.phases(model):
        moved = [id(p) for learner in phase.learners.values() for group in learner.groups for p in group.parameters]
        still = {id(p) for module in phase.frozen for p in module.parameters()}
        assert max(Counter(moved).values()) == 1, "two learners share a parameter"
        assert not still & set(moved)
        assert still | set(moved) == {id(p) for p in phase.subject.parameters()}
        moved_by_any |= set(moved)
    assert moved_by_any == {id(p) for p in model.parameters()}


@every_method
def test_settings_survive_json(kind: str) -> None:
    method = tiny(kind)
    text = json.dumps(run(method).model_dump(mode="json"))
    assert Run.read(json.loads(text)) == run(method)
    assert METHODS[kind].model_validate_json(METHODS[kind]().model_dump_json()) == METHODS[kind]()


@every_method
def test_the_loss_falls_in_twenty_steps_on_a_fixed_set(kind: str) -> None:
    method = tiny(kind)
    for phase in method.phases(build(method)):
        for learner, losses in _twenty_steps(phase).items():
            assert len(losses) >= 20
            assert sum(losses[-5:]) < sum(losses[:5]), (phase.name, learner)


def _twenty_steps(phase: Phase) -> dict[str, list[float]]:
    subject, losses = ready(phase), {name: list[float]() for name in phase.learners}
    movers = {name: Mover(learner) for name, learner in phase.learners.items()}
    for update in phase.round(subject, Repeated(batch(), 20)):
        losses[update.learner].append(update.loss.item())
        movers[update.learner].take(update, 0.0)
    for parameter in subject.parameters():
        parameter.requires_grad_(True)
    return losses


@pytest.mark.parametrize(("event", "after"), [("round", 3), ("phase", 1), ("done", 1)])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    whole: tuple[Run, bytes, list[dict[str, Any]]], event: str, after: int, tmp_path: Path
) -> None:
    chosen, model, records = whole
    with pytest.raises(Killed):
        trained(chosen, tmp_path, [killer(after, event)])
    assert not (tmp_path / "model.safetensors").exists()
    assert trained(chosen, tmp_path, resume=True) == model
    assert _without_times(tmp_path) == records


def test_a_run_that_is_stopped_again_and_again_equals_the_uninterrupted_one(
    whole: tuple[Run, bytes, list[dict[str, Any]]], tmp_path: Path
) -> None:
    chosen, model, records = whole
    stops, cut = 0, b""
    while not cut:
        try:
            cut = trained(chosen, tmp_path, [killer(2)], resume=True)
        except Killed:
            stops += 1
    assert stops >= 2
    assert cut == model
    assert _without_times(tmp_path) == records


def _without_times(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in journal.read(folder / "train.jsonl")]


@every_method
def test_attacks_inside_training_touch_neither_weights_nor_statistics(kind: str) -> None:
    method = tiny(kind)
    for phase in method.phases(build(method)):
        subject = ready(phase)
        forwards = _training_forwards(subject)
        before = state(subject)
        held = {name for module in phase.frozen for name, m in subject.named_modules() if m in set(module.modules())}
        seen, asked = norms(subject), set()
        for update in phase.round(subject, Repeated(batch(), 2)):
            moved = {id(p) for group in phase.learners[update.learner].groups for p in group.parameters}
            asked.add(update.learner)
            assert update.loss.requires_grad
            for name, parameter in subject.named_parameters():
                assert torch.equal(parameter, before[name]), f"{phase.name}: {name} moved"
                assert parameter.grad is None, f"{phase.name}: {name} has a gradient"
            for name, count in norms(subject).items():
                owner = name.rpartition(".")[0]
                learns = id(subject.get_submodule(owner).weight) in moved
                allowed = (0,) if owner in held else (1,) if learns else (0, 1)
                assert count - seen[name] in allowed, f"{phase.name}: {name}"
                assert forwards.pop(owner, 0) == count - seen[name], f"{phase.name}: {name}"
            seen = norms(subject)
            if update.also:
                update.loss.backward(inputs=update.also)
        assert asked == set(phase.learners)
        for parameter in subject.parameters():
            parameter.requires_grad_(True)


def _training_forwards(subject: nn.Module) -> Counter[str]:
    """Batch-norm's forwards in training mode, counted at the layer itself and not at its copies."""
    counts: Counter[str] = Counter()
    for name, module in subject.named_modules():
        if isinstance(module, nn.BatchNorm2d):

            def count(layer: nn.Module, args: tuple[Tensor], out: Tensor, name: str = name, own: int = id(module)) -> None:
                counts[name] += layer.training and id(layer) == own

            module.register_forward_hook(count)
    return counts
