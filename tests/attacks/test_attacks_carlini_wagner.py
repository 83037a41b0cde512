"""Minimal perturbations: as long as foolbox's on handwritten digits, and as the distance to the border of a linear model.

Foolbox returns a black image where it finds nothing.
"""

import pytest
import torch
import torch.nn.functional as F
from attacked_nets import images, net
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dwf.attacks import CarliniWagner
from dwf.attacks.losses import margin
from dwf.core.errors import Refused
from dwf.core.seeds import Noise
from dwf.core.types import Threat

NO_LIMIT = Threat(norm="l2", eps=1000)
SHORT = {"steps": 250, "searches": 5, "initial_c": 0.5}
WEIGHT = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(2)) / 10


def linear(x: Tensor) -> Tensor:
    """Logits (B, 2) whose difference is linear in the image and zero at the grey one."""
    score = ((x - 0.5) * WEIGHT).sum((1, 2, 3))
    return torch.stack([score, -score], dim=1)


def lengths(change: Tensor) -> Tensor:
    return change.flatten(1).norm(dim=1)


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A trained net, and 200 digits (1, 8, 8) that it has not seen."""
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(10):
            for rows in torch.randperm(1500).split(50):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
    return model.eval().requires_grad_(False), x[1500:1700], y[1500:1700]


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
def test_perturbations_are_as_long_as_foolboxs(digits: tuple[nn.Module, Tensor, Tensor], targeted: bool) -> None:
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed: nothing to compare with", exc_type=ImportError)
    model, x, y = digits
    target = (y + 1) % 10 if targeted else None
    ours = CarliniWagner(threat=NO_LIMIT, **SHORT)(model, x, y, Noise.rows(0, 200), target)
    attack = foolbox.attacks.L2CarliniWagnerAttack(steps=250, binary_search_steps=5, initial_const=0.5)
    criterion = foolbox.criteria.TargetedMisclassification(target) if targeted else foolbox.criteria.Misclassification(y)
    theirs, _, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, criterion, epsilons=None)
    found = theirs.flatten(1).any(1)
    broken = model(ours).argmax(1) == target if targeted else model(ours).argmax(1) != y
    assert found.sum() >= 170
    assert (broken.sum() - found.sum()).abs() <= 4
    both = found & broken
    mine, his = lengths(ours - x)[both], lengths(theirs - x)[both]
    assert abs(mine.mean() / his.mean() - 1) < 0.02
    assert ((mine - his).abs() < 0.05 * his + 1e-4).float().mean() > 0.9  # sample by sample


@pytest.mark.parametrize("confidence", [0, 0.5])
def test_on_a_linear_model_it_is_the_distance_to_the_border(confidence: float) -> None:
    """Images that stand 0.1 to 0.6 from the border, anywhere along it."""
    unit = WEIGHT / WEIGHT.norm()
    along = images()[0] * 0.2 - 0.1
    along = along - (along * unit).sum((1, 2, 3), keepdim=True) * unit
    distance = torch.linspace(0.1, 0.6, 6)
    x, y = 0.5 + along + distance.view(-1, 1, 1, 1) * unit, torch.zeros(6, dtype=torch.int64)
    adversarial = CarliniWagner(threat=NO_LIMIT, confidence=confidence, steps=300, step=2e-3)(linear, x, y, Noise.rows(0, 6))
    assert (margin(linear(adversarial), y) > confidence).all()
    torch.testing.assert_close(lengths(adversarial - x), distance + confidence / (2 * WEIGHT.norm()), rtol=0.02, atol=0)


def test_a_target_is_reached_by_the_shortest_way() -> None:
    """Towards the third of three classes the border with the second is none."""
    x = images()[0] * 0.2 + 0.4
    weights = torch.randn(3, 192, generator=torch.Generator().manual_seed(4)) / 10
    zero, two = torch.zeros(6, dtype=torch.int64), torch.full((6,), 2)

    def model(images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ weights.T + torch.tensor([4.0, -20.0, 2.0])

    adversarial = CarliniWagner(threat=NO_LIMIT, steps=400)(model, x, zero, Noise.rows(0, 6), two)
    logits = model(x)
    assert (model(adversarial).argmax(1) == 2).all()
    distance = (logits[:, 0] - logits[:, 2]) / (weights[0] - weights[2]).norm()
    torch.testing.assert_close(lengths(adversarial - x), distance, rtol=0.02, atol=0)


def test_an_image_that_is_misclassified_already_stays_as_it_is() -> None:
    x, _ = images()
    y = linear(x).argmax(1)
    y[:3] = 1 - y[:3]
    adversarial = CarliniWagner(threat=NO_LIMIT, **SHORT)(linear, x, y, Noise.rows(0, 6))
    assert torch.equal(adversarial[:3], x[:3])
    assert (adversarial[3:] != x[3:]).flatten(1).any(1).all()


def test_the_smallest_success_is_kept() -> None:
    """The searches of a shorter run are the first of a longer one."""
    x, _ = images()
    model, noise = net(), Noise.rows(0, 6)
    y = model(x).argmax(1)
    runs = [CarliniWagner(threat=NO_LIMIT, steps=60, step=0.05, searches=n, initial_c=1)(model, x, y, noise) for n in (1, 4, 8)]
    assert all((model(found).argmax(1) != y).all() for found in runs[1:])
    few, some, many = (lengths(found - x) for found in runs)
    assert (many <= some).all()
    assert (many < some).any()
    assert (some[model(runs[0]).argmax(1) != y] <= few[model(runs[0]).argmax(1) != y]).all()


def test_what_never_breaks_keeps_the_try_that_came_closest() -> None:
    x, _ = images()
    y = torch.zeros(6, dtype=torch.int64)

    def hopeless(images: Tensor) -> Tensor:
        return linear(images) + torch.tensor([1000.0, 0.0])

    tries: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        tries.append(margin(hopeless(images), y).detach())
        return hopeless(images)

    adversarial = CarliniWagner(threat=NO_LIMIT, steps=20, searches=1, initial_c=0.1)(watched, x, y, Noise.rows(0, 6))
    assert torch.equal(margin(hopeless(adversarial), y), torch.stack(tries[1:]).amax(0))
    assert (margin(hopeless(adversarial), y) > margin(hopeless(x), y)).all()


def test_longer_perturbations_are_scaled_back_to_the_ball() -> None:
    x, _ = images()
    x = x * 0.2 + 0.4
    y = linear(x).argmax(1)
    free = CarliniWagner(threat=NO_LIMIT, **SHORT)(linear, x, y, Noise.rows(0, 6))
    length = lengths(free - x)
    radius = length.median().item()
    bounded = CarliniWagner(threat=Threat(norm="l2", eps=radius), **SHORT)(linear, x, y, Noise.rows(0, 6))
    longer = length > radius
    assert torch.equal(bounded[~longer], free[~longer])
    torch.testing.assert_close(lengths(bounded - x)[longer], torch.full_like(length[longer], radius))
    torch.testing.assert_close(F.cosine_similarity((bounded - x).flatten(1), (free - x).flatten(1)), torch.ones(6))


def test_a_sample_is_searched_as_if_it_were_alone() -> None:
    """With bisection, and with samples that leave at different checks; in fp64, where rounding turns nothing."""
    model = net(dtype=torch.float64)
    x = images()[0].double()
    y = model(x).argmax(1)
    attack = CarliniWagner(threat=NO_LIMIT, steps=60, step=0.05, searches=5, initial_c=0.01)
    together = attack(model, x, y, Noise.rows(0, 6))
    for row in range(6):
        alone = attack(model, x[row : row + 1], y[row : row + 1], Noise.rows(0, 1))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-9)


def test_a_sample_that_stalls_is_not_asked_again() -> None:
    """No gradient, no progress: each search ends at its second check, after a tenth of the steps."""
    x, y = images()
    calls: list[int] = []

    def deaf(images: Tensor) -> Tensor:
        calls.append(len(images))
        return F.one_hot(y[: len(images)], 5).float()

    CarliniWagner(threat=NO_LIMIT, steps=100, searches=3)(deaf, x, y, Noise.rows(0, 6))
    assert calls == [6] * (1 + 3 * 11)


def test_refuses_linf() -> None:
    sentence = "threat.norm is 'linf' and carlini-wagner minimises the L2 length; set it to 'l2' or use pgd"
    with pytest.raises(Refused, match=sentence):
        CarliniWagner.read({"threat": {"norm": "linf", "eps": 0.03}})
    with pytest.raises(ValidationError, match=sentence):
        CarliniWagner(threat=Threat())
