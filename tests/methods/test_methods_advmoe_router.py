"""How ADVMoE's router learns: from labels, or straight through its choice from the loss of the whole system."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tiny_methods import Repeated, batch, build, ready, tiny
from torch import Tensor, nn

from dwf.attacks.losses import divergence
from dwf.methods.advmoe import Advmoe, RoutedPaths
from dwf.training.mover import Mover
from dwf.training.optim import Recipe, Sgd
from dwf.training.plan import Phase

both = pytest.mark.parametrize("router_loss", ["labels", "straight-through"])


def only(**changes: Any) -> tuple[Phase, RoutedPaths]:
    method = tiny("advmoe", **changes)
    (phase,) = method.phases(build(method))
    model = ready(phase)
    assert isinstance(model, RoutedPaths)
    return phase, model


def centred(model: RoutedPaths, gap: float) -> None:
    """A router of two scores, opposite and on either side for half of the images, up to `gap` apart."""
    with torch.no_grad():
        head, x = model.router.head, batch().x
        for _ in range(100):  # until the moving statistics are the batch's: training normalises by those, and sees the same gap
            model.train().scores(x)
        head.weight[1], head.bias[1] = -head.weight[0], -head.bias[0]
        for _ in range(2):  # the second time for what fp32 lost in the first
            scores = model.eval().scores(x)[:, 0]
            head.bias += torch.tensor([-1.0, 1.0]) * scores.median()
            factor = gap / (2 * model.scores(x).abs().max())
            head.weight *= factor
            head.bias *= factor
    model.train()


def updates(phase: Phase, model: RoutedPaths, times: int) -> list[tuple[str, float]]:
    """Take the steps of `times` batches, as the loop does."""
    movers = {name: Mover(learner) for name, learner in phase.learners.items()}
    taken = []
    for update in phase.round(model, Repeated(batch(), times)):
        movers[update.learner].take(update, 0.0)
        taken.append((update.learner, update.loss.item()))
    return taken


def used(model: RoutedPaths) -> int:
    """How many paths the images take."""
    with torch.no_grad():
        return len(copy.deepcopy(model).eval().scores(batch().x).argmax(1).unique())


@both
def test_a_router_with_scores_200_apart_stays_finite(router_loss: str) -> None:
    phase, model = only(router_loss=router_loss)
    centred(model, 200)
    apart = copy.deepcopy(model).eval().scores(batch().x).diff(dim=1).abs().max()
    assert apart.item() == pytest.approx(200, rel=0.01)
    taken = updates(phase, model, 5)
    assert [learner for learner, _ in taken] == ["paths", "router"] * 5
    assert all(math.isfinite(loss) for _, loss in taken)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_with_labels_such_a_router_goes_on_using_both_paths() -> None:
    """At a rate that moves scores of this size by about their size: a larger one throws them, and the choice with them, about."""
    phase, model = only(router_loss="labels", recipe=Recipe(epochs=3, batch=20, optimizer=Sgd(learning_rate=1e-6)))
    centred(model, 200)
    apart = copy.deepcopy(model).eval().scores(batch().x)
    updates(phase, model, 20)
    assert used(model) == 2
    assert (copy.deepcopy(model).eval().scores(batch().x) - apart).abs().max() > 1


def test_labels_lead_out_of_one_path_and_to_each_its_own_classes() -> None:
    """A router that sent everybody one way learns whether a label is odd, on the images that it trains on."""
    phase, model = only(router_loss="labels", steps=1)
    with torch.no_grad():
        model.router.head.bias += torch.tensor([5.0, 0.0])
    assert used(model) == 1
    updates(phase, model, 40)
    assert used(model) == 2
    chosen = model.train().scores(batch().x).argmax(1)
    assert (chosen == batch().y % 2).float().mean() > 0.8


@pytest.mark.parametrize("gap", [1.0, 200.0])
def test_the_factor_that_the_gradient_passes_is_one(gap: float) -> None:
    _, model = only(router_loss="straight-through")
    centred(model, gap)
    model.eval()
    for ours, plain in zip(model.answers(batch().x, straight_through=True), model.answers(batch().x), strict=True):
        assert torch.equal(ours, plain)


def test_the_gradient_is_the_derivative_by_a_factor_on_the_chosen_paths_layers() -> None:
    """Of the chosen score, image by image, by central differences in fp64; the other scores have none."""
    _, model = only(router_loss="straight-through")
    centred(model, 1.0)
    model.double()
    x, y, step = batch().x.double(), batch().y, 1e-6
    kept: list[Tensor] = []

    def watched(module: nn.Module, args: Any, scores: Tensor) -> None:
        scores.retain_grad()
        kept.append(scores)

    handle = model.router.register_forward_hook(watched)
    nn.functional.cross_entropy(model.answers(x, straight_through=True)[0], y).backward()
    handle.remove()
    gradient = kept[0].grad
    assert gradient is not None
    chosen = kept[0].argmax(1)
    assert gradient.gather(1, 1 - chosen[:, None]).count_nonzero() == 0
    for image in range(3):
        losses = []
        for sign in (1, -1):
            factor = torch.ones(len(x), dtype=torch.float64)
            factor[image] += sign * step
            losses.append(nn.functional.cross_entropy(model.paths(x, chosen, factor), y).item())
        slope = (losses[0] - losses[1]) / (2 * step)
        assert gradient[image, chosen[image]].item() == pytest.approx(slope, rel=1e-3, abs=1e-9)
        assert abs(slope) > 1e-7


def test_straight_through_the_router_alone_learns_from_the_loss_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []
    attacked = Advmoe._attacked

    def spy(self: Advmoe, *args: Any) -> Tensor:
        made.append(attacked(self, *args))
        return made[-1]

    monkeypatch.setattr(Advmoe, "_attacked", spy)
    phase, model = only(router_loss="straight-through", beta=3.0)
    rounds = phase.round(model, Repeated(batch(), 1))
    next(rounds)
    router = next(rounds)
    clean, moved = model(torch.cat([batch().x, made[1]])).chunk(2)
    expected = nn.functional.cross_entropy(clean, batch().y) + 3 * divergence(clean, moved).mean()
    assert router.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    Mover(phase.learners[router.learner]).take(router, 0.0)
    moved_names = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert "router.head.weight" in moved_names
    assert all(name.startswith("router.") for name in moved_names)


@both
def test_every_router_loss_is_trained_from_settings_that_survive_json(router_loss: str) -> None:
    method = Advmoe(router_loss=router_loss)
    assert Advmoe.read(method.model_dump(mode="json")) == method
