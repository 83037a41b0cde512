"""What makes SoE: whose gradient goes where, the hard choice and its soft stand-in, and both adversaries of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_methods import EIGHT, Repeated, batch, build, ready, run, tiny
from torch import Tensor, nn

from dwf import evaluate
from dwf.attacks import Pgd
from dwf.core.errors import Refused
from dwf.core.types import Routed
from dwf.methods import Soe
from dwf.methods.soe import Synergy, class_losses, confidence_losses, rectified
from dwf.models import AttackCopy
from dwf.training.plan import Phase
from dwf.verbs import train

Y = torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.fixture
def answers() -> tuple[Tensor, Tensor]:
    """Opinions (6, 3, 4) and scores (6, 3) in fp64, with and without the right class on top."""
    source = torch.Generator().manual_seed(0)
    opinions = torch.randn(6, 3, 4, generator=source, dtype=torch.float64)
    right = opinions.argmax(2) == Y[:, None]
    assert right.any()
    assert not right.all()
    return opinions.requires_grad_(), torch.randn(6, 3, generator=source, dtype=torch.float64).requires_grad_()


def system(**changes: Any) -> Synergy:
    """Three sub-models that differ, with batch-norm statistics of their own; each is the surest one on some images."""
    model = build(tiny("soe", **changes))
    assert isinstance(model, Synergy)
    with torch.no_grad():
        for _ in range(3):
            model.train()(batch().x)
        _, scores = model.eval().answers(batch().x)
        for net, mine in zip(model.bank, scores.T, strict=True):  # scores of mean 0 and deviation 2
            net.head.bias[-1] -= mine.mean()
            net.head.weight[-1] *= 2 / mine.std()
            net.head.bias[-1] *= 2 / mine.std()
    return model


def only(**changes: Any) -> Phase:
    method = tiny("soe", **changes)
    (phase,) = method.phases(build(method))
    return phase


def test_confidence_is_the_largest_probability_times_the_sigmoid_of_the_score() -> None:
    opinions = torch.tensor([[[3.0, 1.0, 1.0, 1.0]] * 2])
    scores = torch.tensor([[0.0, -1.0]])
    sure = 1 / (1 + 3 * torch.tensor(-2.0).exp())
    expected = torch.stack([sure / 2, sure / (1 + torch.tensor(1.0).exp())])
    assert torch.allclose(rectified(opinions, scores)[0], expected)


def test_the_surest_answers_alone() -> None:
    model, x = system(), batch().x
    opinions, scores = model.answers(x)
    surest = rectified(opinions, scores).argmax(1)
    assert len(surest.unique()) == 3
    logits, weights, shown = model.route(x)
    for row, chosen in enumerate(surest.tolist()):
        assert torch.equal(logits[row], opinions[row, chosen])
        assert weights[row].tolist() == [float(number == chosen) for number in range(3)]
    assert torch.equal(shown, opinions)
    assert torch.equal(model(x), logits)
    for number in range(3):
        torch.testing.assert_close(model.expert(x, number), opinions[:, number])


def test_a_net_has_one_output_more_than_there_are_classes() -> None:
    model = system()
    assert isinstance(model, Routed)
    assert len(model.bank) == 3
    assert all(net.head.out_features == len(EIGHT.classes) + 1 for net in model.bank)
    assert model(batch().x).shape == (20, len(EIGHT.classes))


def test_the_surrogate_tends_to_the_hard_choice_and_to_the_mean() -> None:
    model, x = system(), batch().x
    hard, cold, hot = model.route(x), model.surrogate(x, 1e-6), model.surrogate(x, 1e6)
    for temperature in (0.1, 1.0, 10.0):
        assert torch.allclose(model.surrogate(x, temperature).weights.sum(1), torch.ones(len(x)))
    torch.testing.assert_close(cold.weights, hard.weights)
    torch.testing.assert_close(cold.logits, hard.logits)
    torch.testing.assert_close(hot.logits, hard.opinions.mean(1))


def test_the_choice_has_no_gradient_and_the_surrogate_has() -> None:
    model, x = system(), batch().x
    confidences = [net.head.weight for net in model.bank]
    hard = torch.autograd.grad(model.route(x).logits.square().sum(), confidences)
    soft = torch.autograd.grad(model.surrogate(x, 1.0).logits.square().sum(), confidences)
    assert all(gradient[-1].abs().max() == 0 for gradient in hard)
    assert all(gradient[-1].abs().max() > 0 for gradient in soft)
    assert any(gradient[:-1].abs().max() > 0 for gradient in hard)


def test_an_attack_follows_the_chosen_sub_model_alone() -> None:
    model, x = system(), batch().x.requires_grad_()
    (whole,) = torch.autograd.grad(F.cross_entropy(model(x), batch().y, reduction="sum"), x)
    chosen = model.route(x).weights.argmax(1)
    for number in range(3):
        mine = chosen == number
        (own,) = torch.autograd.grad(F.cross_entropy(model.expert(x, number), batch().y, reduction="sum"), x)
        torch.testing.assert_close(whole[mine], own[mine])


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 5.0])
def test_classes_are_learnt_under_constant_weights(answers: tuple[Tensor, Tensor], sharpness: float) -> None:
    opinions, scores = answers
    losses = class_losses(opinions, scores, Y, sharpness)
    weights = torch.softmax(sharpness * rectified(opinions, scores), 1).detach()
    apart = torch.stack([F.cross_entropy(opinions[:, i], Y, reduction="none") for i in range(3)], 1)
    torch.testing.assert_close(losses, (weights * apart).sum(1))
    moved, none = torch.autograd.grad(losses.sum(), [opinions, scores], allow_unused=True)
    assert none is None, "the confidence learns from its own loss only"
    onehot = F.one_hot(Y, 4)[:, None]
    torch.testing.assert_close(moved, weights[..., None] * (torch.softmax(opinions, 2) - onehot).detach())


def test_a_confidence_learns_the_probability_of_the_truth(answers: tuple[Tensor, Tensor]) -> None:
    opinions, scores = answers
    truth = torch.softmax(opinions, 2)[torch.arange(6), :, Y].detach()
    expected = F.binary_cross_entropy(rectified(opinions, scores), truth, reduction="none")
    torch.testing.assert_close(confidence_losses(opinions, scores, Y), expected)


def test_a_sub_model_that_is_right_is_not_taught_by_its_confidence(answers: tuple[Tensor, Tensor]) -> None:
    opinions, scores = answers
    right = opinions.argmax(2) == Y[:, None]
    by_opinion, by_score = torch.autograd.grad(confidence_losses(opinions, scores, Y).sum(), [opinions, scores])
    assert by_opinion[right].abs().max() == 0
    assert (by_opinion[~right].abs().amax(1) > 0).all()
    assert (by_score.abs() > 0).all()
    truth = torch.softmax(opinions, 2)[torch.arange(6), :, Y].detach()
    plain = F.binary_cross_entropy(rectified(opinions, scores), truth, reduction="sum")
    expected = torch.autograd.grad(plain, [opinions, scores])
    torch.testing.assert_close(by_opinion[~right], expected[0][~right])
    torch.testing.assert_close(by_score, expected[1])


@pytest.mark.parametrize("score", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("scale", [0.0, 1e3])
def test_saturated_answers_have_finite_losses_and_gradients(score: float, scale: float) -> None:
    opinions = (scale * torch.eye(4)[None, :3].repeat(6, 1, 1)).requires_grad_()
    scores = torch.full((6, 3), score, requires_grad=True)
    loss = confidence_losses(opinions, scores, Y).mean() + class_losses(opinions, scores, Y, 1.0).mean()
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, [opinions, scores]))


class Spy:
    """Stands for the attack: whom it was shown, and what it made."""

    def __init__(self, attack: Pgd) -> None:
        self.attack, self.logits, self.made = attack, [], []

    def __call__(self, model: Any, x: Tensor, y: Tensor, noise: Any) -> Tensor:
        with torch.no_grad():
            self.logits.append(model(x))
        self.made.append(self.attack(model, x, y, noise))
        return self.made[-1]


def spied(adversary: str, **changes: Any) -> tuple[Spy, Synergy, Any]:
    """One update under the eyes of a spy, with the subject as the attack saw it: in eval mode, before the update's pass."""
    method = tiny("soe", adversary=adversary, **changes)
    spy = Spy(method.attack)
    method.__dict__["attack"] = spy
    model = system()
    seen = Synergy(model.bank)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (phase,) = method.phases(model)
    (update,) = phase.round(ready(phase), Repeated(batch(), 1))
    seen.load_state_dict(before)
    return spy, seen.eval(), update


def test_together_attacks_the_system() -> None:
    spy, model, _ = spied("together")
    (logits,) = spy.logits
    torch.testing.assert_close(logits, model(batch().x), rtol=1e-4, atol=1e-4)


def test_one_by_one_attacks_every_sub_model() -> None:
    spy, model, _ = spied("one-by-one")
    assert len(spy.logits) == 3
    for number, logits in enumerate(spy.logits):
        torch.testing.assert_close(logits, model.expert(batch().x, number), rtol=1e-4, atol=1e-4)
    assert not torch.equal(spy.made[0], spy.made[1])


@pytest.mark.parametrize("adversary", ["together", "one-by-one"])
def test_clean_and_adversarial_images_count_alike(adversary: str) -> None:
    spy, model, update = spied(adversary, confidence=0.5, sharpness=2.0)
    images, y = [batch().x, *spy.made], batch().y
    opinions, scores = model.train().answers(torch.cat(images))
    many = y.repeat(len(images))
    losses = class_losses(opinions, scores, many, 2.0) + 0.5 * confidence_losses(opinions, scores, many).mean(1)
    clean, adversarial = losses[: len(y)].mean(), losses[len(y) :].mean()
    assert update.loss.item() == pytest.approx((clean + adversarial).item(), rel=1e-4)
    assert update.log["loss_clean"].item() == pytest.approx(clean.item(), rel=1e-4)
    assert update.log["loss_adversarial"].item() == pytest.approx(adversarial.item(), rel=1e-4)
    assert 1 / 3 <= update.log["largest_share"].item() <= 1


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_one_update_reaches_every_sub_model_and_its_confidence(weight: float) -> None:
    phase = only(confidence=weight)
    subject = ready(phase)
    assert isinstance(subject, Synergy)
    (update,) = phase.round(subject, Repeated(batch(), 1))
    gradients = torch.autograd.grad(update.loss, list(subject.parameters()), retain_graph=True)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    heads = torch.autograd.grad(update.loss, [net.head.weight for net in subject.bank])
    for gradient in heads:
        assert (gradient[:-1].abs().amax(1) > 0).all()
        assert (gradient[-1].abs().max() > 0) == (weight > 0), "the last row is the confidence's, which has a loss of its own"


def test_every_epoch_comes_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The released code trains on the images as they lie in the file."""
    seen: list[list[int]] = []
    update = Soe._attacked

    def spy(self: Soe, victim: AttackCopy, batch: Any) -> list[Tensor]:
        seen.append(batch.y.tolist())
        return update(self, victim, batch)

    monkeypatch.setattr(Soe, "_attacked", spy)
    train(run(tiny("soe")), tmp_path, device="cpu")
    size = len(seen) // 3
    assert size > 1
    assert len({str(seen[n : n + size]) for n in range(0, 3 * size, size)}) == 3


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_attack_copy_answers_like_the_original(precision: torch.dtype) -> None:
    model, x = system(), batch().x
    copy = AttackCopy(model, precision)
    assert isinstance(copy.inner, Synergy)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
    if precision == torch.float32:
        torch.testing.assert_close(copy(x), model(x), rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(copy.inner.route(x), model.route(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ours, theirs = copy.inner.surrogate(x, 0.3), model.surrogate(x, 0.3)
    assert ours.logits.dtype == ours.weights.dtype == copy(x).dtype == copy.inner.expert(x, 1).dtype == torch.float32
    near = 1e-4 if precision == torch.float32 else 0.1
    assert (ours.weights - theirs.weights).abs().max() < near
    assert (copy.inner.expert(x, 1) - model.expert(x, 1)).abs().max() < 5 * near


def test_a_trained_system_can_be_taken_apart(tmp_path: Path) -> None:
    train(run(tiny("soe")), tmp_path, device="cpu")
    few = [f"protocol.{text}" for text in ("steps=1", "apgd_steps=2", "temperatures=[[1,10]]")]
    result = evaluate(tmp_path, "moe", overrides=few, samples=20, device="cpu")
    names = {entry.name for entry in result.attacks}
    assert names >= {"pgd", "frozen-routing", "routing", "expert-1", "expert-2", "expert-3", "surrogate", "reweighed"}
    assert result.model.forward_passes == 3
    assert result.routing is not None
    assert "rerouted" in result.facts


@pytest.mark.parametrize(("change", "words"), [
    ({"experts": 1}, "'experts' is 1: input should be greater than or equal to 2"),
    ({"adversary": "both"}, "'adversary' is 'both': input should be 'together' or 'one-by-one'"),
    ({"sharpness": -1}, "'sharpness' is -1"),
    ({"attack": {"kind": "fgsm"}}, "'attack.kind' is 'fgsm'"),
])  # fmt: skip
def test_wrong_settings_are_refused_in_a_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        Soe.read(change)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)
