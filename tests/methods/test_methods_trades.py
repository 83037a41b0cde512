"""What makes TRADES what the paper's equation says."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_methods import Repeated, batch, build, ready, tiny
from torch import Tensor, nn

from dwf.attacks.losses import divergence
from dwf.core.seeds import Noise
from dwf.core.types import Threat
from dwf.methods import Trades
from dwf.methods.trades import beside
from dwf.training.plan import Batches, Update


def stepped(method: Trades, *, batches: Batches | None = None) -> tuple[nn.Module, Update, Tensor]:
    """The net in eval mode (batch-norm then ties no image to another), one update, and what the net was asked for it."""
    (phase,) = method.phases(build(method))
    subject, asked = ready(phase).eval(), []

    def note(found: nn.Module, args: tuple[Tensor]) -> None:
        if found is subject:  # and no copy of it
            asked.append(args[0].detach().clone())

    subject.register_forward_pre_hook(note)
    update = next(phase.round(subject, batches or Repeated(batch(), 1)))
    (x,) = asked
    return subject, update, x


def test_the_divergence_is_kl_from_the_clean_to_the_moved() -> None:
    clean, moved = torch.randn(7, 5) * 4, torch.randn(7, 5) * 4
    expected = F.kl_div(moved.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
    assert torch.allclose(divergence(clean, moved), expected, atol=1e-5)
    even, sure = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    assert divergence(even, sure).item() == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))
    assert divergence(clean, clean).abs().max() < 1e-6
    assert divergence(clean.bfloat16(), moved.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("gap", [200.0, 1e4])
def test_a_gap_that_underflows_has_finite_gradients(gap: float) -> None:
    """A probability of exp(-200) is 0 in fp32, and 0 log 0 would be NaN, which no weight survives."""
    clean = torch.tensor([[gap, 0.0, 0.0]], requires_grad=True)
    moved = torch.tensor([[0.0, gap, 0.0]], requires_grad=True)
    value = divergence(clean, moved).sum()
    assert value.item() == pytest.approx(gap)
    towards_clean, towards_moved = torch.autograd.grad(value, (clean, moved))
    assert towards_clean.isfinite().all()
    assert torch.allclose(towards_moved, torch.tensor([[-1.0, 1.0, 0.0]])), "softmax(moved) - softmax(clean)"


def test_the_loss_is_cross_entropy_and_beta_times_divergence_in_one_pass() -> None:
    method = tiny("trades", beta=6.0)
    subject, update, x = stepped(method)
    assert torch.equal(x[:20], batch().x)
    clean, moved = subject(x).chunk(2)
    natural, boundary = F.cross_entropy(clean, batch().y), divergence(clean, moved).mean()
    assert update.loss.item() == pytest.approx((natural + 6 * boundary).item(), rel=1e-5)
    assert update.log["loss_clean"].item() == pytest.approx(natural.item(), rel=1e-5)
    assert update.log["loss_kl"].item() == pytest.approx(boundary.item(), rel=1e-4)
    assert not any(value.requires_grad for value in update.log.values())


def test_both_branches_learn() -> None:
    subject, update, x = stepped(tiny("trades", beta=50.0, threat=Threat(eps=0.3), step=0.2))
    parameters = list(subject.parameters())
    got = flat(torch.autograd.grad(update.loss, parameters))
    for detached in (False, True):
        clean, moved = subject(x).chunk(2)
        target = clean.detach() if detached else clean
        expected = F.kl_div(moved.log_softmax(1), target.log_softmax(1), log_target=True, reduction="batchmean")
        loss = F.cross_entropy(clean, batch().y) + 50 * expected
        same = torch.allclose(got, flat(torch.autograd.grad(loss, parameters)), rtol=1e-3, atol=1e-5)
        assert same is not detached


def flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_worst_neighbour_is_in_ball_and_box_and_worse_than_where_it_began(norm: str) -> None:
    threat = Threat(eps=0.1) if norm == "linf" else Threat(norm="l2", eps=1.0)
    subject, _, x = stepped(tiny("trades", threat=threat, steps=5, step=threat.eps / 3))
    image, worst = x.chunk(2)
    moved = (worst - image).flatten(1)
    size = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
    assert (size <= threat.eps + 1e-6).all()
    assert worst.min() >= 0
    assert worst.max() <= 1
    (draw,) = Repeated(batch(), 1)
    with torch.no_grad():
        began = divergence(subject(image), subject(beside(image, threat, draw.noise, 0)))
        assert (divergence(subject(image), subject(worst)) > began).all()


def test_the_attack_does_not_know_the_labels() -> None:
    whole = batch()
    wrong = type(whole)(whole.x, (whole.y + 1) % 10, whole.index)
    right, blind = (stepped(tiny("trades"), batches=Repeated(one, 1)) for one in (whole, wrong))
    assert torch.equal(right[2], blind[2])
    assert right[1].loss.item() != blind[1].loss.item()


def test_the_start_is_a_little_beside_the_image() -> None:
    x, noise = torch.full((50, 3, 8, 8), 0.5), Noise.rows(0, 50)
    assert (beside(x, Threat(), noise, 0) - x).std().item() == pytest.approx(0.001, rel=0.05)
    assert torch.equal(beside(x, Threat(eps=0), noise, 0), x)


def test_beta_0_is_plain_training_of_the_clean_half() -> None:
    _, update, _ = stepped(tiny("trades", beta=0.0))
    assert update.loss.item() == pytest.approx(update.log["loss_clean"].item())
