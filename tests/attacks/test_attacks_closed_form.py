"""Where the answer is known: linear models, the definitions of restarts and EoT, and the distribution of the start."""

from collections.abc import Callable

import pytest
import torch
from attacked_nets import CLASSES, build, images, net
from torch import Tensor

from dwf.attacks import EotPgd, Fgsm, Mim, Pgd
from dwf.attacks.engine import ascend, input_gradient, uniform
from dwf.attacks.losses import cross_entropy, margin
from dwf.attacks.mim import momentum
from dwf.core.seeds import Noise
from dwf.core.types import Threat

WEIGHT = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2)) / 10
BINARY = torch.tensor([0, 1, 0, 1, 0, 1])
AWAY = torch.where(BINARY == 0, -1.0, 1.0).view(-1, 1, 1, 1) * WEIGHT
"""The direction (B, C, H, W) that the loss of `two_classes` grows in."""


TO_THE_END = ["bim", "eot-pgd", "fgsm", "mim", "pgd"]
"""Attacks that ascend to their last step; the others stop at the first image that is misclassified."""


def two_classes(x: Tensor) -> Tensor:
    """Logits (B, 2) whose difference is linear in the image."""
    score = (x * WEIGHT).sum((1, 2, 3))
    return torch.stack([score, -score], dim=1)


@pytest.mark.parametrize("kind", TO_THE_END)
def test_linf_on_a_linear_model_is_the_corner_of_the_box(kind: str) -> None:
    """After enough steps every pixel stands eps along the sign of its weight, or at the wall; the start is forgotten."""
    x, _ = images()
    adversarial = build(kind, Threat(eps=0.1), steps=12, step=0.05 if kind != "fgsm" else 0.1)(
        two_classes, x, BINARY, Noise.rows(0, 6)
    )
    torch.testing.assert_close(adversarial, (x + 0.1 * AWAY.sign()).clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", TO_THE_END)
def test_l2_on_a_linear_model_is_the_border_of_the_ball(kind: str) -> None:
    """Away from the walls of the box: x + eps w / |w|."""
    x = images()[0] * 0.2 + 0.4
    adversarial = build(kind, Threat(norm="l2", eps=0.5), steps=400, step=0.5)(two_classes, x, BINARY, Noise.rows(0, 6))
    unit = AWAY / AWAY.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(adversarial, x + 0.5 * unit, rtol=0, atol=2e-5)


def test_fgsm_with_a_random_start_overshoots_and_is_projected() -> None:
    """FGSM-RS (Wong et al. 2020): start + 1.25 eps sign(g), cut back to the ball."""
    x = images()[0] * 0.2 + 0.4
    threat, noise = Threat(eps=0.1), Noise.rows(4, 6)
    start = uniform(x, threat, noise, 0)
    expected = torch.minimum(torch.maximum(start + 0.125 * AWAY.sign(), x - 0.1), x + 0.1)
    torch.testing.assert_close(Fgsm(threat=threat, start="uniform")(two_classes, x, BINARY, noise), expected, rtol=0, atol=1e-6)


def test_momentum_accumulates_before_the_sign() -> None:
    """Dong et al.: a large early gradient outvotes two small late ones of the other sign only if it is not yet a sign."""
    gradients = [torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 3.0]), torch.tensor([-1.0, 3.0])]
    direction = momentum(1.0, torch.sign)
    moves = [direction(gradient.view(1, 1, 1, 2)).flatten().tolist() for gradient in gradients]
    assert moves == [[1, 1], [1, 1], [1, 1]]  # 1.5, then 1.5 - 0.5, then 1.5 - 1


def test_without_decay_momentum_is_no_momentum() -> None:
    x, y = images()
    noise = Noise.rows(0, 6)
    assert torch.equal(Mim(decay=0)(net(), x, y, noise), Pgd(start="image")(net(), x, y, noise))


def test_eot_on_a_deterministic_model_is_pgd() -> None:
    x, y = images()
    noise = Noise.rows(0, 6)
    assert torch.equal(EotPgd(draws=4)(net(), x, y, noise), Pgd()(net(), x, y, noise))


def test_eot_averages_the_gradients_of_a_random_model() -> None:
    """A model that is x or 3 x by turns: two draws see 2 x."""
    x, _ = images()
    turns = iter([1.0, 3.0] * 2)
    gradient = input_gradient(lambda images: next(turns) * images.sum((1, 2, 3)), x, draws=2)
    assert torch.equal(gradient, torch.full_like(x, 2))
    assert next(turns) == 1.0  # drawn twice, no more


def test_each_sample_keeps_its_most_damaging_restart() -> None:
    x, y = images()
    model, noise, threat = net(), Noise.rows(0, 6), Threat(eps=0.02)
    restarts = []
    for restart in range(4):
        *_, last = ascend(cross_entropy(model, y), x, threat, steps=2, step=0.004, noise=noise, restart=restart)
        restarts.append(last)
    damages = torch.stack([margin(model(images), y) for images in restarts])
    best = Pgd(threat=threat, steps=2, step=0.004, restarts=4)(model, x, y, noise)
    assert len(damages.argmax(0).unique()) > 1  # not always the same one
    for row, restart in enumerate(damages.argmax(0)):
        assert torch.equal(best[row], restarts[restart][row])


def test_targeted_restarts_keep_what_comes_closest_to_the_target() -> None:
    x, y = images()
    target = (y + 2) % CLASSES
    model, noise = net(), Noise.rows(0, 6)
    one, many = (Pgd(threat=Threat(eps=0.02), steps=2, step=0.004, restarts=n)(model, x, y, noise, target) for n in (1, 5))
    missing = [margin(model(images), target) for images in (one, many)]  # how far the target is from winning
    assert (missing[1] <= missing[0]).all()
    assert (missing[1] < missing[0]).any()


def test_margin_is_the_best_wrong_logit_minus_the_true_one() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [0.0, -1.0, 3.0]])
    assert margin(logits, torch.tensor([1, 0])).tolist() == [-2, 3]


@pytest.mark.parametrize(("target", "sign"), [(None, 1), (torch.tensor([1, 1]), -1)], ids=["untargeted", "targeted"])
def test_the_objective_is_the_cross_entropy_of_each_sample(target: Tensor | None, sign: int) -> None:
    logits = torch.tensor([[1.0, 4.0, 2.0], [0.0, -1.0, 3.0]])
    label = torch.tensor([2, 0])
    value = cross_entropy(lambda x: logits.bfloat16(), label, target)(torch.zeros(2, 1, 1, 1))
    wanted = label if target is None else target
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, -sign * logits.log_softmax(1)[torch.arange(2), wanted], rtol=0, atol=1e-6)


def starts(threat: Threat, shape: tuple[int, ...]) -> Tensor:
    """Offsets (20000, D) of the random start, far from the walls."""
    x = torch.full((20_000, *shape), 0.5)
    return (uniform(x, threat, Noise.rows(0, len(x)), 0) - x).flatten(1)


def kolmogorov(values: Tensor, distribution: Callable[[Tensor], Tensor]) -> float:
    """The largest distance between the empirical distribution and `distribution`; above 0.0138 once in a thousand times."""
    values = distribution(values.double().sort().values)
    steps = torch.arange(len(values) + 1) / len(values)
    return max((values - steps[:-1]).max().item(), (steps[1:] - values).max().item())


def test_the_linf_start_is_uniform_in_the_cube() -> None:
    offsets = starts(Threat(eps=0.2), (1, 1, 3))
    for axis in range(3):
        assert kolmogorov(offsets[:, axis], lambda v: (v + 0.2) / 0.4) < 0.0138
    assert torch.corrcoef(offsets.T).triu(1).abs().max() < 0.025


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 1, 1), (3, 2, 2)])
def test_the_l2_start_is_uniform_in_the_ball(shape: tuple[int, ...]) -> None:
    """Radius distributed as r^d, directions without a preference."""
    dimensions = torch.Size(shape).numel()
    offsets = starts(Threat(norm="l2", eps=0.4), shape)
    assert kolmogorov(offsets.norm(dim=1), lambda r: (r / 0.4) ** dimensions) < 0.0138
    directions = offsets / offsets.norm(dim=1, keepdim=True)
    assert directions.mean(0).abs().max() < 0.03
    covariance = directions.T @ directions / len(directions)
    torch.testing.assert_close(covariance, torch.eye(dimensions) / dimensions, rtol=0, atol=0.015)


def test_the_start_stays_in_the_box_and_differs_between_restarts() -> None:
    x, _ = images()
    for threat in (Threat(eps=0.3), Threat(norm="l2", eps=3)):
        first, second = (uniform(x, threat, Noise.rows(0, 6), restart) for restart in (0, 1))
        assert first.min() >= 0
        assert first.max() <= 1
        assert (first != second).flatten(1).any(1).all()


def test_ascend_yields_every_iterate() -> None:
    x, y = images()
    threat = Threat()
    path = list(ascend(cross_entropy(net(), y), x, threat, steps=5, step=2 / 255, noise=Noise.rows(0, 6)))
    assert len(path) == 5
    assert len({tuple(step.flatten().tolist()) for step in path}) == 5
    for step in path:
        assert (step - x).abs().max() <= threat.eps + 1e-6
