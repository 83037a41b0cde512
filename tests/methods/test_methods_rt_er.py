"""What makes RT-ER, and what its released code lacks: a router that learns, a random start, batch-norm that moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_methods import EIGHT, Repeated, batch, build, norms, ready, state, tiny
from torch import Tensor, nn

from dwf.attacks import Pgd
from dwf.attacks.losses import divergence
from dwf.core.errors import Refused
from dwf.core.types import Certifiable, Routed
from dwf.methods import RtEr
from dwf.methods.rt_er import LARGEST, RoutedExperts, mixed, second_best
from dwf.models import AttackCopy
from dwf.training.mover import Mover


def system(**changes: Any) -> RoutedExperts:
    """Experts that differ, with batch-norm statistics of their own, and a router that uses more than one of them."""
    model = build(tiny("rt-er", **changes))
    assert isinstance(model, RoutedExperts)
    with torch.no_grad():
        for _ in range(3):
            model.train()(batch().x)
    assert len(model.eval().scores(batch().x).argmax(1).unique()) > 1
    return model


def steps(model: RoutedExperts, method: RtEr, times: int) -> None:
    (phase,) = method.phases(model)
    mover = Mover(phase.learners["all"])
    for update in phase.round(ready(phase), Repeated(batch(), times)):
        mover.take(update, 0.0)


def test_the_router_learns() -> None:
    model = system()
    before = state(model.router)
    steps(model, tiny("rt-er"), 2)
    assert all((model.router.state_dict()[name] - before[name]).abs().max() > 1e-5 for name in ("head.weight", "head.bias"))


def test_a_router_that_does_not_learn_stays_as_it_was_drawn() -> None:
    method = tiny("rt-er", router_learns=False)
    model = system(router_learns=False)
    before, bank = state(model.router), state(model.bank)
    steps(model, method, 2)
    assert all(torch.equal(model.router.state_dict()[name], value) for name, value in before.items())
    assert any(not torch.equal(model.bank.state_dict()[name], value) for name, value in bank.items())
    assert model.train().route(batch().x).weights.amax(1).eq(1).all(), "as released, one expert answers in training too"


def test_batch_norm_moves_in_training() -> None:
    model = build(tiny("rt-er"))
    before = state(model)
    steps(model, tiny("rt-er"), 3)
    assert set(norms(model).values()) == {3}
    moved = [name for name in before if name.endswith("running_mean")]
    assert moved
    assert all(not torch.equal(model.state_dict()[name], before[name]) for name in moved)


class Spy:
    """Stands for the attack: what it was shown, and what it made."""

    def __init__(self, attack: Pgd) -> None:
        self.attack, self.seen, self.made = attack, [], []

    def __call__(self, model: Any, x: Tensor, y: Tensor, noise: Any) -> Tensor:
        with torch.no_grad():
            self.seen.append((x, model(x)))
        self.made.append(self.attack(model, x, y, noise))
        return self.made[-1]


def spied(times: int = 1, **changes: Any) -> tuple[Spy, RoutedExperts, list[Any]]:
    method = tiny("rt-er", **changes)
    spy = Spy(method.attack)
    method.__dict__["attack"] = spy
    model = system()
    (phase,) = method.phases(model)
    return spy, model, list(phase.round(ready(phase), Repeated(batch(), times)))


def test_the_start_of_the_attack_is_random() -> None:
    """One step of next to nothing leaves the start: both signs alike, another start in another batch, and inside the ball."""
    spy, _, _ = spied(times=2, attack=Pgd(steps=1, step=1e-6))
    whole = [(x, made) for (x, _), made in zip(spy.seen, spy.made, strict=True) if len(x) == len(batch().x)]
    first, second = ((made - x)[(x > 0.1) & (x < 0.9)] for x, made in whole)
    assert 0.4 < (first > 0).float().mean() < 0.6
    assert first.abs().mean().item() == pytest.approx(4 / 255, rel=0.1)
    assert first.abs().max() <= 8 / 255 + 1e-6
    assert not torch.equal(first, second)


def test_each_image_robustifies_the_second_best_expert_of_the_clean_image() -> None:
    spy, model, _ = spied()
    model.eval()
    second = model.scores(batch().x).topk(2, dim=1).indices[:, 1]
    assert second.equal(second_best(AttackCopy(model), batch().x))
    (whole, _), *alone = spy.seen
    assert torch.equal(whole, batch().x)
    assert [len(x) for x, _ in alone] == [n for n in second.bincount(minlength=4).tolist() if n]
    for number, (x, _) in zip(second.unique().tolist(), alone, strict=True):
        assert torch.equal(x, batch().x[second == number])


def test_the_loss_is_that_of_the_paper() -> None:
    spy, model, (update,) = spied(beta=3.0)
    second, x, y = second_best(AttackCopy(model), batch().x), batch().x, batch().y
    (_, attacked), alone = (spy.seen[0], spy.made[0]), iter(spy.made[1:])
    opinions, apart = [], torch.zeros(())
    model.train()
    for number in range(4):
        rows = second == number
        moved = next(alone) if rows.any() else x[rows]
        out = model.bank[number](torch.cat([attacked, x[rows], moved]))
        opinions.append(out[: len(x)].softmax(1))
        here, there = out[len(x) :].log_softmax(1).chunk(2)
        apart = apart + (here.exp() * (here - there)).sum()
    weights = model.scores(attacked).softmax(1)
    together = (weights.unsqueeze(2) * torch.stack(opinions, 1)).sum(1)
    expected = F.nll_loss(together.log(), y) + 3 * apart / len(y)
    assert update.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert update.log["loss_kl"].item() == pytest.approx(apart.item() / len(y), rel=1e-3)


def test_one_expert_answers_after_training_and_all_answer_in_training() -> None:
    model, x = system(), batch().x
    assert isinstance(model, Routed)
    assert isinstance(model, Certifiable)
    logits, weights, opinions = model.route(x)
    chosen = model.scores(x).argmax(1)
    assert torch.equal(weights, F.one_hot(chosen, 4).float())
    assert torch.equal(logits, opinions[torch.arange(len(x)), chosen])
    for number in range(4):
        torch.testing.assert_close(opinions[:, number], model.expert(x, number))
    soft = system(selection="soft")
    p = (soft.scores(x).softmax(1).unsqueeze(2) * soft.route(x).opinions.softmax(2)).sum(1)
    torch.testing.assert_close(soft(x).softmax(1), p)
    assert model.train().route(x).weights.amax(1).max() < 1


def test_the_gradient_of_the_choice_is_that_of_the_mixture_at_the_chosen_expert() -> None:
    model = system()
    source = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 4, generator=source, requires_grad=True)
    opinions = torch.randn(5, 4, 10, generator=source, requires_grad=True)
    y = torch.arange(5)
    ours = torch.autograd.grad(F.cross_entropy(model.decide(scores, opinions).logits, y, reduction="sum"), [scores, opinions])
    top, p = scores.argmax(1), opinions.softmax(2)
    weights = F.one_hot(top, 4) + scores.softmax(1) - scores.softmax(1).detach()
    mixture = (weights.unsqueeze(2) * p.detach()).sum(1)
    (expected,) = torch.autograd.grad(F.nll_loss(mixture.log(), y, reduction="sum"), scores)
    torch.testing.assert_close(ours[0], expected)
    assert ours[1][torch.arange(5), top].abs().sum() > 0
    assert ours[1].abs().sum() == ours[1][torch.arange(5), top].abs().sum(), "the experts that do not answer receive none"


def test_an_attack_pushes_the_router() -> None:
    """Experts that ignore the image leave the router as the only way."""
    model = system()
    for expert in model.bank:
        nn.init.zeros_(expert.head.weight)
        nn.init.normal_(expert.head.bias)
    for victim in (model, AttackCopy(model)):
        x = batch().x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(victim(x), batch().y), x)
        assert gradient.flatten(1).abs().amax(1).gt(0).all()


def test_a_mixture_of_probabilities_neither_underflows_nor_explodes() -> None:
    opinions = torch.tensor([[[900.0, 0.0], [0.0, 900.0]], [[1.0, 2.0], [1.0, 2.0]]], requires_grad=True)
    scores = torch.tensor([[0.0, -200.0], [0.3, 0.7]], requires_grad=True)
    logits = mixed(scores.log_softmax(1), opinions)
    torch.testing.assert_close(logits[1], opinions[1, 0])
    assert (logits[0, 0] - logits[0, 1]).item() == pytest.approx(200.0)
    model = system()
    for value in (logits, model.decide(scores, opinions).logits):
        gradients = torch.autograd.grad(F.cross_entropy(value, torch.tensor([1, 0])), [opinions, scores], retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert all(gradient.abs().max() < 2 * torch.tensor(LARGEST).exp() for gradient in gradients)


def test_the_surrogate_tends_to_the_hard_choice_and_to_the_mean() -> None:
    model, x = system(), batch().x
    hard = model.route(x)
    torch.testing.assert_close(model.surrogate(x, 1e-6).logits, hard.logits)
    torch.testing.assert_close(model.surrogate(x, 1e9).logits.softmax(1), hard.opinions.softmax(2).mean(1))


def test_divergence_of_nothing_is_no_loss() -> None:
    assert divergence(torch.zeros(0, 4), torch.zeros(0, 4)).sum() == 0


@pytest.mark.parametrize(("change", "words"), [
    ({"experts": 1}, "'experts' is 1: input should be greater than or equal to 2"),
    ({"selection": "two"}, "'selection' is 'two': input should be 'top-1' or 'soft'"),
    ({"router": {"kind": "mlp"}}, "'router.kind' is 'mlp', which does not exist"),
    ({"recipe": {"schedule": {"kind": "triangular", "low": 2}}}, "'recipe.schedule.low' is 2"),
])  # fmt: skip
def test_wrong_settings_are_refused_in_a_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        RtEr.read(change)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_router_has_a_score_for_each_expert() -> None:
    assert system().router.head.out_features == 4
    assert len(EIGHT.classes) == 10
