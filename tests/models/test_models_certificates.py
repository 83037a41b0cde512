"""A certified radius is a promise: closed forms, and attacks that try to break it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwf.attacks import ApgdCe, Pgd
from dwf.core.seeds import Noise
from dwf.core.types import Images, Spec, Threat
from dwf.data import Digits, ordered, subset
from dwf.methods import RtEr
from dwf.methods.jtdmoe import Dual
from dwf.methods.rt_er import RoutedExperts
from dwf.models import Linear, Lipschitz
from dwf.models.bounds import Norm
from dwf.models.certificates import distance, steepness
from dwf.run import load, read

SPEC = Spec(classes=tuple("0123456789"), channels=1, height=8, width=8, mean=(0.3,), std=(0.35,))
CERTIFIED = Path(__file__).parents[2] / "results" / "digits-certified" / "jtdmoe-lipschitz"
both_norms = pytest.mark.parametrize("norm", ["l2", "linf"])


def digits(split: str, count: int) -> Images:
    return subset(Digits(size=8)(split), count, 0)


def trained(model: nn.Module, images: Images, rounds: int = 12) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for chunk in [*ordered(images, 100)] * rounds:
        optimizer.zero_grad()
        F.cross_entropy(model(chunk.x), chunk.y).backward()
        optimizer.step()
    return model.eval()


def experts(selection: str, router: Linear | Lipschitz) -> RoutedExperts:
    torch.manual_seed(0)
    method = RtEr(backbone=Lipschitz(width=8, stages=1, scale=8), router=router, experts=2, selection=selection)
    model = trained(method.model(SPEC), digits("train", 800))
    assert isinstance(model, RoutedExperts)
    return model


@pytest.fixture(scope="module")
def soft() -> RoutedExperts:
    return experts("soft", Lipschitz(stages=0, scale=1))


@pytest.fixture(scope="module")
def hard() -> RoutedExperts:
    return experts("top-1", Linear())


def test_a_linear_net_changes_its_mind_exactly_at_the_radius() -> None:
    torch.manual_seed(0)
    net = Linear()(SPEC).eval()
    net.normalize.std.fill_(0.5)
    x = 0.5 + 0.02 * torch.randn(4, 1, 8, 8)
    logits = net(x)
    top, rows = logits.argmax(1), net.head.weight / 0.5
    for norm, p in (("l2", 2), ("linf", 1)):
        radii = distance(logits, net, norm, 64)
        for i in range(4):
            there = [k for k in range(10) if k != top[i]]
            exact = [(logits[i, top[i]] - logits[i, k]) / (rows[top[i]] - rows[k]).norm(p=p) for k in there]
            assert radii[i].item() == pytest.approx(min(exact).item(), rel=1e-2)
            gap = rows[there[int(torch.stack(exact).argmin())]] - rows[top[i]]
            way = (gap / gap.norm() if norm == "l2" else gap.sign()).view(1, 8, 8)
            assert net((x[i] + 0.999 * radii[i] * way)[None]).argmax() == top[i]
            assert net((x[i] + 1.02 * radii[i] * way)[None]).argmax() != top[i]


def test_no_probability_is_steeper_than_a_quarter_of_its_logits_differences() -> None:
    assert steepness(torch.tensor([[0.0, 4.0], [4.0, 0.0]])).tolist() == [1.0, 1.0]
    z = torch.linspace(-9, 9, 1001, requires_grad=True)
    (slope,) = torch.autograd.grad(torch.sigmoid(z).sum(), z)  # two classes, z their difference
    assert slope.max() == pytest.approx(0.25, abs=1e-4)


@both_norms
def test_the_mixtures_probabilities_move_no_faster_than_kappa(soft: RoutedExperts, norm: Norm) -> None:
    x = torch.cat([chunk.x for chunk in ordered(digits("test", 40), 40)]).requires_grad_()
    kappa = soft.sensitivity(x, norm).kappa
    p = soft(x).softmax(1)
    for c in range(10):
        (gradient,) = torch.autograd.grad(p[:, c].sum(), x, retain_graph=True)
        assert (gradient.flatten(1).norm(p=2 if norm == "l2" else 1, dim=1) <= kappa).all()


def attacked(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> bool:
    """Whether PGD or APGD-CE changes the answer to one image."""
    for attack in (Pgd(threat=threat, steps=20, step=threat.eps / 4), ApgdCe(threat=threat, steps=20)):
        moved = attack(model, x, y, Noise.rows(0, 1))
        if model(moved).argmax(1).ne(y).any():
            return True
    return False


@both_norms
@pytest.mark.parametrize("selection", ["soft", "hard"])
def test_no_attack_succeeds_inside_a_radius_and_some_do_in_twenty(
    selection: str, norm: Norm, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(selection)
    (whole,) = ordered(digits("test", 12), 12)
    with torch.no_grad():
        y, radii = model(whole.x).argmax(1), model.certified(whole.x, norm)
    assert radii.median() >= 1 / 255
    assert not any(
        attacked(model, whole.x[i : i + 1], y[i : i + 1], Threat(norm=norm, eps=radii[i].item())) for i in range(12) if radii[i]
    )
    widest = 0.99 if norm == "linf" else 8.0
    far = [Threat(norm=norm, eps=min(20 * radius, widest)) for radius in radii.tolist()]
    assert any(attacked(model, whole.x[i : i + 1], y[i : i + 1], far[i]) for i in range(12) if radii[i])


def test_where_one_expert_answers_the_choice_is_certified_too(hard: RoutedExperts) -> None:
    (whole,) = ordered(digits("test", 40), 40)
    with torch.no_grad():
        speed, radii = hard.sensitivity(whole.x, "l2"), hard.certified(whole.x, "l2")
    assert speed.reach.isfinite().all()
    assert (radii <= speed.reach).all()
    torch.testing.assert_close(speed.reach, distance(hard.scores(whole.x), hard.router, "l2", 64))


@pytest.fixture(scope="module")
def preset() -> tuple[Dual, Tensor, dict[Norm, Tensor]]:
    """The dual model of results/digits-certified, all test images, and the radius of each: 0 where the model is wrong."""
    loaded = load(CERTIFIED, torch.device("cpu"))
    assert loaded.run == read("jtdmoe-lipschitz-digits")
    model = loaded.model.eval()
    assert isinstance(model, Dual)
    images = loaded.run.data.source("test")
    (whole,) = ordered(images, len(images))
    with torch.no_grad():
        right = model(whole.x).argmax(1) == whole.y
        return model, whole.x, {norm: torch.where(right, model.certified(whole.x, norm), 0.0) for norm in ("l2", "linf")}


@both_norms
def test_the_median_image_of_the_lipschitz_preset_is_proven_within_a_255th(
    norm: Norm, preset: tuple[Dual, Tensor, dict[Norm, Tensor]]
) -> None:
    _, _, radii = preset
    assert len(radii[norm]) == 500
    assert radii[norm].median() >= 1 / 255


@both_norms
def test_nothing_breaks_the_lipschitz_preset_inside_and_something_at_twenty_times_the_radius(
    norm: Norm, preset: tuple[Dual, Tensor, dict[Norm, Tensor]]
) -> None:
    model, x, radii = preset
    rows = radii[norm].nonzero().flatten()[:12].tolist()
    assert len(rows) == 12
    widest = 0.99 if norm == "linf" else 8.0
    each = [(x[row : row + 1], model(x[row : row + 1]).argmax(1), radii[norm][row].item()) for row in rows]
    assert not any(attacked(model, image, y, Threat(norm=norm, eps=radius)) for image, y, radius in each)
    assert any(attacked(model, image, y, Threat(norm=norm, eps=min(20 * radius, widest))) for image, y, radius in each)
