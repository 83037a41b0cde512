"""One learner's share of an update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwf.core.types import Spec
from dwf.models import ResNet
from dwf.training.mover import Mover, precision_of
from dwf.training.optim import Adam, Constant, Cosine, Sgd
from dwf.training.plan import Group, Learner, Update

PLAIN = Sgd(learning_rate=0.5, momentum=0.0, weight_decay=0.0)


def learner(*parameters: nn.Parameter, optimizer: Any = PLAIN, schedule: Any = None) -> Learner:
    return Learner([Group(list(parameters))], optimizer, schedule or Constant())


def weight(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def test_only_the_named_learner_receives_gradients_and_moves() -> None:
    mine, other = weight(1.0), weight(2.0)
    Mover(learner(mine)).take(Update((mine * other).sum()), 0.0)
    assert mine.grad is None, "the step has given it back"
    assert mine.item() == 0.0  # 1 - 0.5 * 2
    assert other.grad is None
    assert other.item() == 2.0


def test_a_stale_gradient_of_another_learner_is_not_stepped() -> None:
    mine, other = weight(1.0), weight(2.0)
    movers = {"a": Mover(learner(mine)), "b": Mover(learner(other))}
    (mine * other).sum().backward()  # as a careless method might: both hold a gradient now
    movers["a"].take(Update((3 * mine).sum(), "a"), 0.0)
    movers["b"].take(Update((0 * other).sum(), "b"), 0.0)
    assert mine.item() == -0.5  # 1 - 0.5 * 3, and not 1 - 0.5 * (3 + 2)
    assert other.item() == 2.0


def test_further_leaves_receive_a_fresh_gradient_and_stay() -> None:
    mine, leaf = weight(1.0), torch.tensor([4.0], requires_grad=True)
    mover = Mover(learner(mine))
    for _ in range(2):
        before = mine.item()
        mover.take(Update((mine * leaf).sum(), also=(leaf,)), 0.0)
        assert leaf.grad is not None
        assert leaf.grad.item() == before, "not added to the last one"
    assert leaf.item() == 4.0


def test_frozen_parameters_are_left_out() -> None:
    free, held = weight(1.0), weight(1.0).requires_grad_(False)
    mover = Mover(learner(free, held))
    mover.take(Update((free * held).sum()), 0.0)
    assert mover.parameters == [free]
    assert held.item() == 1.0


def test_a_parameter_without_a_gradient_counts_as_zeros() -> None:
    used, unused = weight(1.0), weight(1.0)
    mover = Mover(learner(used, unused, optimizer=Sgd(learning_rate=0.5, momentum=0.0, weight_decay=0.2)))
    mover.take(Update(used.sum()), 0.0)
    assert unused.item() == pytest.approx(0.9), "weight decay acts on it as on any other"


def test_two_half_batches_equal_one_whole_batch() -> None:
    spec = Spec(classes=("a", "b", "c"), channels=1, height=8, width=8, mean=(0.5,), std=(0.2,))
    x, y = torch.rand(8, 1, 8, 8, dtype=torch.float64), torch.arange(8) % 3
    made: list[dict[str, Tensor]] = []
    for accumulate in (1, 2):
        torch.manual_seed(0)
        net = ResNet(depth=10, width=2)(spec).double().eval()
        mover = Mover(learner(*net.parameters(), optimizer=Sgd(learning_rate=0.1)), accumulate)
        for _ in range(2):
            for part_x, part_y in zip(x.chunk(accumulate), y.chunk(accumulate), strict=True):
                mover.take(Update(F.cross_entropy(net(part_x), part_y)), 0.0)
        made.append(net.state_dict())
    for name, tensor in made[0].items():
        assert torch.allclose(tensor, made[1][name], rtol=0, atol=1e-12), name


def test_nothing_moves_before_enough_updates_have_gathered() -> None:
    mine = weight(1.0)
    mover = Mover(learner(mine), accumulate=3)
    for slope, expected in ((2.0, 1.0), (4.0, 1.0), (6.0, -1.0), (2.0, -1.0)):  # 1 - 0.5 * (2 + 4 + 6) / 3
        mover.take(Update((slope * mine).sum()), 0.0)
        assert mine.item() == pytest.approx(expected)


@pytest.mark.parametrize(("clip", "norm"), [(None, 5.0), (1.0, 1.0), (100.0, 5.0)])
def test_the_whole_gradient_is_clipped_by_its_norm(clip: float | None, norm: float) -> None:
    a, b = weight(0.0), weight(0.0)
    mover = Mover(learner(a, b), clip=clip)
    mover.take(Update((3 * a + 4 * b).sum()), 0.0)
    moved = torch.cat([a, b]).detach() / -0.5
    assert moved.norm().item() == pytest.approx(norm, rel=1e-4)
    assert (moved / moved.norm()).tolist() == pytest.approx([0.6, 0.8], rel=1e-4)


@pytest.mark.parametrize("optimizer", [Sgd(learning_rate=0.1), Sgd(nesterov=True), Adam(), Adam(weight_decay=0.1)], ids=str)
def test_an_optimizer_goes_on_exactly_where_its_state_was_taken(optimizer: Any) -> None:
    def path(interrupt: bool) -> Tensor:
        torch.manual_seed(0)
        mine = nn.Parameter(torch.randn(3, 4))
        mover = Mover(learner(mine, optimizer=optimizer))
        for number in range(6):
            if interrupt and number == 3:
                state = {name: tensor.clone() for name, tensor in mover.state().items()}
                assert state
                mover = Mover(learner(mine, optimizer=optimizer))
                mover.restore(state)
            mover.take(Update((mine**2 * (number + 1)).sum()), 0.0)
        return mine.detach()

    assert torch.equal(path(interrupt=True), path(interrupt=False))


def test_groups_keep_their_own_rates_under_the_schedule() -> None:
    slow, fast = weight(1.0), weight(1.0)
    mover = Mover(Learner([Group([slow]), Group([fast], 2.0)], PLAIN, Cosine()))
    mover.take(Update((slow + fast).sum()), 0.5)
    assert slow.item() == pytest.approx(1 - 0.25)
    assert fast.item() == pytest.approx(1 - 1.0)
    assert mover.learning_rate == pytest.approx(0.25)


def test_precision_by_name() -> None:
    assert precision_of("fp32", torch.bfloat16) is torch.float32
    assert precision_of("bf16", torch.float32) is torch.bfloat16
    assert precision_of("auto", torch.bfloat16) is torch.bfloat16
