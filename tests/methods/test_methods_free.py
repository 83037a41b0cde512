"""Free-AT: one backward pass moves weights and perturbation, and the perturbation lives on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from tiny_methods import Repeated, batch, build, ready, run, tiny
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.types import Batch
from dwf.methods import Free
from dwf.run import Run
from dwf.training.mover import Mover
from dwf.training.plan import Draw, Update

EPS = 0.1


class InTurn:
    """Different batches of one size, as a phase sees them."""

    precision = torch.float32

    def __init__(self, *batches: Batch) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Draw]:
        for one in self.batches:
            yield from Repeated(one, 1)


def halves() -> tuple[Batch, Batch]:
    """Two batches of ten different digits."""
    whole = batch(20)
    return tuple(Batch(whole.x[rows], whole.y[rows], whole.index[rows]) for rows in (slice(0, 10), slice(10, 20)))


def learned(method: Free, *batches: Batch) -> Iterator[tuple[nn.Module, Update, Tensor, Tensor]]:
    """Net, update, attacked images and their gradient for every step that was taken."""
    (phase,) = method.phases(build(method))
    mover, subject = Mover(phase.learners["all"]), ready(phase)
    for update in phase.round(subject, InTurn(*batches)):
        (attacked,) = update.also
        images = attacked.detach().clone()
        mover.take(update, 0.0)
        assert attacked.grad is not None
        yield subject, update, images, attacked.grad.clone()


def test_the_perturbation_follows_the_papers_rule_through_replays_and_batches() -> None:
    first, second = halves()
    steps = list(learned(tiny("free", eps=EPS, replays=3), first, second))
    assert len(steps) == 6
    delta = torch.zeros_like(first.x)
    for (_, _, attacked, gradient), one in zip(steps, [first] * 3 + [second] * 3, strict=True):
        assert torch.allclose(attacked, (one.x + delta).clamp(0, 1), atol=1e-6)
        delta = (delta + EPS * gradient.sign()).clamp(-EPS, EPS)
    assert not torch.equal(steps[3][2], second.x), "the second batch inherits the first one's perturbation"


def test_ball_and_box_hold_at_every_step() -> None:
    first, second = halves()
    for (_, _, attacked, _), one in zip(
        learned(tiny("free", eps=EPS, replays=4), first, second), [first] * 4 + [second] * 4, strict=True
    ):
        assert (attacked - one.x).abs().max() <= EPS + 1e-6
        assert attacked.min() >= 0
        assert attacked.max() <= 1


def test_a_round_begins_at_the_images_themselves() -> None:
    """So that what a checkpoint between rounds holds is all there is."""
    first, _ = halves()
    for _ in range(2):
        _, _, attacked, _ = next(learned(tiny("free", eps=EPS), first))
        assert torch.equal(attacked, first.x)


def test_every_replay_is_a_step_of_the_weights_at_the_attacked_images() -> None:
    first, _ = halves()
    weights = []
    for subject, update, attacked, _ in learned(tiny("free", eps=EPS, replays=3), first):
        weights.append(next(subject.parameters()).detach().clone())
        assert update.loss.item() > 0
        assert update.also[0].shape == attacked.shape
    assert len(weights) == 3
    assert not any(torch.equal(a, b) for a, b in pairwise(weights))


def test_the_gradient_of_the_perturbation_is_that_of_the_training_loss() -> None:
    first, _ = halves()
    method = tiny("free", eps=EPS)
    (phase,) = method.phases(build(method))
    update = next(phase.round(ready(phase), InTurn(first)))
    (attacked,) = update.also
    (by_update,) = torch.autograd.grad(update.loss, attacked)
    twin = build(method).train()
    x = first.x.clone().requires_grad_()
    (by_hand,) = torch.autograd.grad(F.cross_entropy(twin(x), first.y), x)
    assert torch.allclose(by_update, by_hand, atol=1e-6)
    assert by_hand.abs().max() > 0


def test_a_pixel_at_the_end_of_the_box_can_turn_back() -> None:
    """Black stays black under a negative perturbation; a gradient through the clipping would be zero there for ever."""
    first, _ = halves()
    black = first.x == 0
    assert black.any()
    *_, (_, _, attacked, gradient) = learned(tiny("free", eps=EPS, replays=2), first)
    stuck = black & (attacked == 0)
    assert stuck.any()
    assert (gradient[stuck] != 0).any()


def test_accumulation_is_refused_in_a_sentence() -> None:
    """Half of the replays would share a step, which is another algorithm."""
    settings = run(tiny("free")).model_dump(mode="json")
    settings["train"]["accumulate"] = 2
    with pytest.raises(Refused) as refusal:
        Run.read(settings)
    assert "'train.accumulate' is 2, and method 'free' takes a step after every replay; set it to 1" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("change", "words"), [
    ({"eps": 8}, "write '8/255'"),
    ({"replays": 0}, "'replays' is 0"),
])  # fmt: skip
def test_wrong_settings_of_free_training_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        Free.read(change)
    assert words in str(refusal.value)
