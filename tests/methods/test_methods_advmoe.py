"""What makes ADVMoE: one path for each image and nothing computed for the others, and two learners in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_methods import FOUR, Repeated, batch, build, ready, run, tiny
from torch import Tensor, nn

from dwf import evaluate
from dwf.core.errors import Refused
from dwf.core.types import Routed
from dwf.methods import Advmoe
from dwf.methods.advmoe import PathConvNorm, RoutedPaths, divergence
from dwf.models import AttackCopy, ResNet
from dwf.training.plan import Phase
from dwf.verbs import train


def system(**changes: Any) -> RoutedPaths:
    """Batch-norm with statistics of its own, and a router that uses every path."""
    model = build(tiny("advmoe", **changes))
    assert isinstance(model, RoutedPaths)
    with torch.no_grad():
        for _ in range(3):
            model.train()(batch().x)
        model.router.head.bias -= model.eval().scores(batch().x).mean(0)
        model.router.head.weight *= 10
        model.router.head.bias *= 10
    assert len(model.scores(batch().x).argmax(1).unique()) == model.paths.experts
    return model


def only(**changes: Any) -> Phase:
    method = tiny("advmoe", **changes)
    (phase,) = method.phases(build(method))
    return phase


@pytest.mark.parametrize("experts", [2, 3])
def test_each_image_is_answered_by_its_path(experts: int) -> None:
    model, x = system(experts=experts), batch().x
    assert isinstance(model, Routed)
    chosen = model.scores(x).argmax(1)
    logits, weights, opinions = model.route(x)
    assert weights.argmax(1).equal(chosen)
    assert weights.sum(1).equal(torch.ones(len(x)))
    for row, path in enumerate(chosen.tolist()):
        torch.testing.assert_close(logits[row], model.expert(x[row : row + 1], path)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x), logits, rtol=1e-4, atol=1e-5)
    for number in range(experts):
        torch.testing.assert_close(opinions[:, number], model.expert(x, number))
    assert not torch.allclose(opinions[:, 0], opinions[:, 1], atol=1e-3)


def test_a_convolution_is_computed_for_the_images_of_its_path_alone() -> None:
    model, x = system(), batch().x
    counts = model.scores(x).argmax(1).bincount(minlength=2).tolist()
    seen: dict[tuple[str, int], int] = {}
    for name, module in model.named_modules():
        if isinstance(module, PathConvNorm):
            for number, conv in enumerate(module.convs):
                conv.register_forward_hook(
                    lambda conv, args, out, key=(name, number): seen.update({key: seen.get(key, 0) + len(out)})
                )
    model(x)
    assert len(seen) == 2 * 8, "four blocks of two convolutions, two paths"
    assert all(count == counts[number] for (_, number), count in seen.items())


def test_everything_but_the_3x3_convolutions_of_the_blocks_is_shared() -> None:
    two, four = system(experts=2), system(experts=4)
    more = sum(p.numel() for p in four.paths.parameters()) - sum(p.numel() for p in two.paths.parameters())
    path = sum(conv.weight.numel() for m in two.modules() if isinstance(m, PathConvNorm) for conv in m.convs[:1])
    assert more == 2 * path


def test_two_half_width_paths_have_half_the_parameters_of_the_dense_net() -> None:
    model = Advmoe().model(FOUR)
    assert isinstance(model, RoutedPaths)
    size, dense = (sum(p.numel() for p in net.parameters()) for net in (model.paths, ResNet(depth=18, width=64)(FOUR)))
    assert size / dense == pytest.approx(0.5, abs=0.01)


def test_the_surrogate_tends_to_the_hard_choice_and_to_the_mean() -> None:
    model, x = system(), batch().x
    hard = model.route(x)
    for temperature in (0.1, 1.0, 10.0):
        assert torch.allclose(model.surrogate(x, temperature).weights.sum(1), torch.ones(len(x)))
    torch.testing.assert_close(model.surrogate(x, 1e-6).logits, hard.logits)
    torch.testing.assert_close(model.surrogate(x, 1e9).logits, hard.opinions.mean(1), rtol=1e-4, atol=1e-4)


def test_the_choice_has_no_gradient_and_the_surrogate_has() -> None:
    model, x = system(), batch().x
    router = list(model.router.parameters())
    none = torch.autograd.grad(model(x).square().sum(), router, allow_unused=True)
    soft = torch.autograd.grad(model.surrogate(x, 1.0).logits.square().sum(), router)
    assert all(gradient is None for gradient in none)
    assert any(gradient.abs().max() > 0 for gradient in soft)


def test_divergence_is_that_of_kullback_and_leibler_and_survives_saturation() -> None:
    source = torch.Generator().manual_seed(0)
    here, there = torch.randn(2, 5, 4, generator=source)
    p, q = torch.softmax(here, 1), torch.softmax(there, 1)
    torch.testing.assert_close(divergence(here, there), (p * (p / q).log()).sum(1))
    assert divergence(here, here).abs().max() < 1e-6
    far = torch.tensor([[300.0, 0.0], [0.0, 300.0]], requires_grad=True)
    value = divergence(far, far.flip(0).detach())
    (gradient,) = torch.autograd.grad(value.sum(), far)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_paths_and_router_learn_in_turn_each_from_its_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    attacked = Advmoe._attacked

    def spy(self: Advmoe, *args: Any) -> Tensor:
        made.append(attacked(self, *args))
        return made[-1]

    monkeypatch.setattr(Advmoe, "_attacked", spy)
    phase = only(beta=3.0, guidance=2.0)
    model, x, y = ready(phase), batch().x, batch().y
    assert isinstance(model, RoutedPaths)
    paths, router = phase.round(model, Repeated(batch(), 1))
    assert (paths.learner, router.learner) == ("paths", "router")
    assert len(made) == 2
    clean, moved = model(torch.cat([x, made[0]])).chunk(2)
    expected = F.cross_entropy(clean, y) + 3 * divergence(clean, moved).mean()
    assert paths.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    clean, moved = model.scores(torch.cat([x, made[1]])).chunk(2)
    expected = 2 * F.cross_entropy(clean, y % 2) + 3 * divergence(clean, moved).mean()
    assert router.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for update, own, other in ((paths, model.paths, model.router), (router, model.router, model.paths)):
        assert all(
            gradient is None
            for gradient in torch.autograd.grad(update.loss, list(other.parameters()), retain_graph=True, allow_unused=True)
        )
        found = torch.autograd.grad(update.loss, list(own.parameters()), allow_unused=True)
        assert any(gradient is not None and gradient.abs().max() > 0 for gradient in found)


def test_the_attack_raises_what_it_ascends_inside_the_ball(monkeypatch: pytest.MonkeyPatch) -> None:
    model = system()
    method = tiny("advmoe", steps=5)
    (draw,) = Repeated(batch(), 1)
    victim = AttackCopy(model)
    moved = method._attacked(victim, draw, 0)
    assert (moved - draw.x).abs().max() <= method.threat.eps + 1e-6
    near = (draw.x + 0.001 * torch.randn(draw.x.shape)).clamp(0, 1)

    def risen(x: Tensor) -> float:
        pairs = zip(model.answers(draw.x), model.answers(x), strict=True)
        return sum(divergence(a, b).sum().item() for a, b in pairs)

    assert risen(moved) > 2 * risen(near)
    assert not torch.equal(moved, method._attacked(victim, draw, 1)), "each turn has its own start"


@pytest.mark.parametrize("steps", [1, 2])
def test_two_attacks_and_two_updates_are_2_k_plus_4_passes(steps: int) -> None:
    phase, images = only(steps=steps), 0
    model = ready(phase)
    assert isinstance(model, RoutedPaths)

    def count(block: nn.Module, args: Any, out: Tensor) -> None:
        nonlocal images
        images += len(out)

    model.paths.blocks[0].register_forward_hook(count)  # a copy of the block copies the hook
    assert len(list(phase.round(model, Repeated(batch(), 1)))) == 2
    assert images == len(batch().x) * (2 * (steps + 1) + 2)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_attack_copy_answers_like_the_original(precision: torch.dtype) -> None:
    model, x = system(), batch().x
    copy = AttackCopy(model, precision)
    assert isinstance(copy.inner, RoutedPaths)
    near = 1e-4 if precision == torch.float32 else 0.15
    for number in range(2):
        assert copy.inner.expert(x, number).dtype == torch.float32
        assert (copy.inner.expert(x, number) - model.expert(x, number)).abs().max() < near
    if precision == torch.float32:
        torch.testing.assert_close(copy(x), model(x), rtol=1e-4, atol=1e-4)
    alone = sum(isinstance(module, PathConvNorm) for module in model.paths.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in copy.modules()) == alone, "the others are folded"


def test_a_trained_system_can_be_taken_apart(tmp_path: Path) -> None:
    train(run(tiny("advmoe")), tmp_path, device="cpu")
    few = [f"protocol.{text}" for text in ("steps=1", "apgd_steps=2", "temperatures=[[1,10]]")]
    result = evaluate(tmp_path, "moe", overrides=few, samples=20, device="cpu")
    assert {entry.name for entry in result.attacks} >= {"pgd", "frozen-routing", "routing", "expert-1", "expert-2", "surrogate"}
    assert result.model.forward_passes == 1


@pytest.mark.parametrize(("change", "words"), [
    ({"experts": 1}, "'experts' is 1: input should be greater than or equal to 2"),
    ({"backbone": {"kind": "resnet", "depth": 50}}, "in basic blocks, which a ResNet-50 has not; use depth 10 to 34"),
    ({"steps": 0}, "'steps' is 0"),
    ({"router_loss": "straight-through", "guidance": 2}, "'guidance' is 2 and weighs labels, which 'router_loss' straight-through"),
])  # fmt: skip
def test_wrong_settings_are_refused_in_a_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        Advmoe.read(change)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
