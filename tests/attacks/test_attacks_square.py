"""Random search over squares: as strong as torchattacks' on handwritten digits, and what its images and queries look like."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from attacked_nets import images, linear
from scipy.stats import binomtest
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dwf.attacks import Square
from dwf.attacks.square import HALVINGS, bump
from dwf.core.seeds import Noise
from dwf.core.types import Threat

LINF, L2 = Threat(eps=0.12), Threat(norm="l2", eps=3.0)
both_norms = pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
GREY = torch.full((4, 3, 20, 20), 0.5)
ZEROS = torch.zeros(4, dtype=torch.int64)


class Metered:
    """Logits (B, 2) that nothing changes, of class 0; keeps the images of every call."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return torch.tensor([1.0, 0.0]).expand(len(x), 2)


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A trained net and about 190 digits (1, 32, 32) that it has not seen and classifies."""
    data = load_digits()
    x = F.interpolate(torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, scale_factor=4)
    y = torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(6):
            for rows in torch.randperm(1500).split(50):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        model.eval().requires_grad_(False)
    unseen, labels = x[1500:1710], y[1500:1710]
    right = model(unseen).argmax(1) == labels
    return model, unseen[right], labels[right]


def compared(ours: Tensor, theirs: Tensor) -> None:
    """Standing samples (B,) of either: no more than 4 points apart, and not significantly so by McNemar's exact test."""
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    assert abs(only_ours - only_theirs) <= 0.04 * len(ours)
    assert only_ours + only_theirs == 0 or binomtest(only_ours, only_ours + only_theirs).pvalue > 0.05


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize(("norm", "theirs", "eps"), [("linf", "Linf", (0.1, 0.2)), ("l2", "L2", (3.0, 5.0))], ids=["linf", "l2"])
def test_leaves_as_many_standing_as_torchattacks(
    digits: tuple[nn.Module, Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    *,
    norm: str,
    theirs: str,
    eps: tuple[float, float],
    targeted: bool,
) -> None:
    """Its windows never reach the last row and column, which is worth some points; here they do."""
    library = pytest.importorskip("torchattacks", reason="torchattacks is not installed", exc_type=ImportError)
    monkeypatch.setattr(library.Square, "random_int", lambda self, low, high: int((high + 1 - low) * torch.rand(1)) + low)
    model, x, y = digits
    goal = (y + 1) % 10 if targeted else y
    attack = library.Square(model, theirs, eps[targeted], 400, loss="ce" if targeted else "margin", seed=1)
    if targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    with torch.random.fork_rng():  # it seeds the global generator
        by_them = attack(x, goal)
    threat, noise = Threat(norm=norm, eps=eps[targeted]), Noise.rows(0, len(x))
    by_us = Square(threat=threat, queries=400)(model, x, y, noise, goal if targeted else None)
    ours, others = ((model(made).argmax(1) == goal) != targeted for made in (by_us, by_them))
    assert 0.1 < ours.float().mean() < 0.9  # neither hopeless nor easy
    compared(ours, others)


def test_linf_images_stand_at_the_walls_of_ball_and_box() -> None:
    x, _ = images()
    adversarial = Square(threat=LINF, queries=100)(linear(), x, linear()(x).argmax(1), Noise.rows(0, 6))
    top, bottom = (x + 0.12).clamp(0, 1), (x - 0.12).clamp(0, 1)
    assert ((adversarial == top) | (adversarial == bottom)).all()
    assert (adversarial == top).any()
    assert (adversarial == bottom).any()


def test_linf_starts_at_vertical_stripes() -> None:
    start = Square(threat=LINF, queries=1)(Metered(), GREY, ZEROS, Noise.rows(0, 4))
    assert torch.equal(start, start[:, :, :1].expand_as(start))
    signs = (start[:, :, 0] > 0.5).float()
    assert 0.35 < signs.mean() < 0.65
    assert len(signs.flatten(0, 1).unique(dim=0)) == 12  # of their own for every sample and channel


def test_l2_images_spend_the_whole_radius() -> None:
    """Where no wall clips, every proposal is as long as the ball allows."""
    model = Metered()
    Square(threat=Threat(norm="l2", eps=1), queries=80)(model, GREY, ZEROS, Noise.rows(0, 4))
    for seen in model.seen:
        torch.testing.assert_close((seen - 0.5).flatten(1).norm(dim=1), torch.ones(4))


def test_l2_returns_what_the_walls_clipped() -> None:
    """From an image at the walls the start is too short; queries make use of the rest."""
    model = Metered()
    x = images(20)[0].round()
    Square(threat=L2, queries=200)(model, x, torch.zeros(20, dtype=torch.int64), Noise.rows(0, 20))
    start, *proposals = [(seen - x).flatten(1).norm(dim=1) for seen in model.seen]
    assert (start < 2.7).all()
    assert (torch.stack(proposals).amax(0) > start + 0.05).all()


def test_a_bump_is_a_pyramid_over_a_negative_one() -> None:
    """Sides 1 x 3 and 2 x 3 by hand: 1 + 1/4 in the middle and 1/4 around it, each half scaled to the same length."""
    above = torch.tensor([[0.25, 1.25, 0.25]], dtype=torch.float64)
    below = -torch.tensor([[0.25, 0.25, 0.25], [0.25, 1.25, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(bump(3), torch.cat([above / above.norm(), below / below.norm()]) / 2**0.5)
    for side in (1, 2, 8, 29):
        torch.testing.assert_close(bump(side).norm().item(), 1.0)


@both_norms
def test_windows_shrink_by_the_schedule_and_reach_every_pixel(threat: Threat) -> None:
    """Nothing is ever better, so each proposal differs from the start by its own windows. 1000 queries stand for 10 000."""
    model = Metered()
    Square(threat=threat, queries=1000, p=0.64)(model, GREY, ZEROS, Noise.rows(0, 4))
    start, *proposals = model.seen
    changed = torch.stack([((seen - start).abs() > 1e-6).any(1) for seen in proposals])  # (999, 4, 20, 20)
    assert changed.flatten(0, 1).any(0).all()
    ends = [1, *(end // 10 + 1 for end in HALVINGS), 1000]
    for halvings, (first, last) in enumerate(pairwise(ends)):
        wide = changed[first - 1 : last - 1].any(2).sum(2)  # columns touched, by one window or by two
        side = round((0.64 / 2**halvings * 400) ** 0.5)
        if threat.norm == "linf":
            assert wide.max() == max(side, 1)
        else:
            odd = max(side, 3) // 2 * 2 + 1
            assert odd < wide.max() <= min(2 * odd, 20)


@both_norms
def test_no_sample_is_queried_more_often_than_allowed(threat: Threat) -> None:
    model = Metered()
    Square(threat=threat, queries=37, restarts=2)(model, GREY, ZEROS, Noise.rows(0, 4))
    assert [len(seen) for seen in model.seen] == [4] * 37 * 2


@both_norms
@pytest.mark.parametrize("target", [None, torch.tensor([1, 2, 3, 4, 0, 1])], ids=["untargeted", "targeted"])
def test_asks_for_scores_only(threat: Threat, target: Tensor | None) -> None:
    """A model in numpy: no gradient could pass, and asking for one would fail."""
    x, y = images()
    weights = linear()[1].weight.detach().numpy()

    def scores(images: Tensor) -> Tensor:
        assert not images.requires_grad
        return torch.from_numpy(images.flatten(1).numpy() @ weights.T)

    attack = Square(threat=threat, queries=30)
    assert torch.equal(attack(scores, x, y, Noise.rows(0, 6), target), attack(linear(), x, y, Noise.rows(0, 6), target))


@both_norms
def test_the_broken_leave_once_they_are_a_quarter(digits: tuple[nn.Module, Tensor, Tensor], threat: Threat) -> None:
    model, x, y = digits
    sizes: list[int] = []

    def watched(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return model(images)

    made = Square(threat=threat, queries=400)(watched, x, y, Noise.rows(0, len(x)))
    assert 1 < len(set(sizes)) < 12
    assert all(after == before or after <= 0.75 * before for before, after in pairwise(sizes))
    assert sizes[-1] * 0.75 < (model(made).argmax(1) == y).sum() <= sizes[-1]


def test_what_the_start_breaks_costs_one_query() -> None:
    model = Metered()
    made = Square(threat=LINF, restarts=3)(model, GREY, ZEROS + 1, Noise.rows(0, 4))
    assert len(model.seen) == 1
    assert torch.equal(made, model.seen[0])


@both_norms
def test_a_sample_keeps_the_first_image_that_breaks_it(threat: Threat) -> None:
    """Also while it waits in the batch for others: the same as alone, in fp64, where rounding turns nothing."""
    x, _ = images(12)
    x, model = x.double(), linear().double()
    y = model(x).argmax(1)
    attack = Square(threat=threat, queries=60)
    together = attack(model, x, y, Noise.rows(0, 12))
    broken = model(together).argmax(1) != y
    assert 0 < broken.sum() < 12 or threat.norm == "linf"
    for row in range(12):
        one = torch.tensor([row])
        alone = attack(model, x[one], y[one], Noise.rows(0, 12).take(one))
        torch.testing.assert_close(alone, together[one], rtol=0, atol=1e-12)


def test_restarts_run_on_those_who_stand(digits: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = digits
    noise = Noise.rows(0, len(x))
    once, thrice = (Square(threat=LINF, queries=50, restarts=n)(model, x, y, noise) for n in (1, 3))
    broken = model(once).argmax(1) != y
    assert torch.equal(thrice[broken], once[broken])
    assert (model(thrice).argmax(1) != y).sum() > broken.sum()


def test_a_lucky_draw_of_a_random_model_ends_no_search() -> None:
    """Grey images stand by a margin of 1 whatever is asked; noise of the same size breaks single draws, not the mean of 40."""
    noise = torch.Generator().manual_seed(0)

    def model(x: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]) + torch.randn(len(x), 2, generator=noise)

    asked = []

    def metered(x: Tensor) -> Tensor:
        asked.append(len(x))
        return model(x)

    for draws, ends in ((1, True), (40, False)):
        asked.clear()
        Square(threat=LINF, queries=30, draws=draws)(metered, GREY, ZEROS, Noise(0, torch.arange(4)))
        assert (sum(asked) < 30 * draws * len(GREY)) is ends
