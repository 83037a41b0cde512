"""Auto-PGD: its schedule on cases that can be worked out, and the reference implementation on a trained net."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from dwf.attacks import ApgdCe, ApgdDlr, ApgdT, Pgd
from dwf.attacks.losses import difference_of_logits_ratio, margin
from dwf.core.errors import Refused
from dwf.core.seeds import Noise
from dwf.core.types import Batch, Classifier, Spec, Threat
from dwf.data import Digits, ordered, subset
from dwf.models import ResNet

EPS = 0.1
SPEC = Spec(classes=tuple("0123456789"), channels=1, height=16, width=16, mean=(0.3,), std=(0.35,))


@pytest.fixture(scope="module")
def batch() -> Batch:
    (whole,) = ordered(subset(Digits()("test"), 200, 0), 200)
    return whole


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A small net after a moment of PGD training, so that something is left to disagree about."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(depth=10, width=4)(SPEC)
    attack = Pgd(threat=Threat(eps=EPS), steps=2, step=0.07)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(4):
        for chunk in ordered(Digits()("train"), 100):
            x = attack(model.eval(), chunk.x, chunk.y, Noise(epoch, chunk.index)) if epoch else chunk.x
            optimizer.zero_grad()
            nn.functional.cross_entropy(model.train()(x), chunk.y).backward()
            optimizer.step()
    return model.eval()


def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) == y


def test_dlr_is_the_formula() -> None:
    logits = torch.tensor([[5.0, 3.0, 2.0, 1.0, 0.0]])
    true, wrong, target = torch.tensor([0]), torch.tensor([1]), torch.tensor([3])
    assert difference_of_logits_ratio(logits, true).item() == pytest.approx(-(5 - 3) / (5 - 2))
    assert difference_of_logits_ratio(logits, wrong).item() == pytest.approx(-(3 - 5) / (5 - 2))
    assert difference_of_logits_ratio(logits, true, target).item() == pytest.approx(-(5 - 1) / (5 - (2 + 1) / 2))
    torch.testing.assert_close(difference_of_logits_ratio(logits * 1e4, true), difference_of_logits_ratio(logits, true))


@pytest.mark.parametrize(("attack", "classes"), [(ApgdDlr(), 2), (ApgdT(), 3)])
def test_dlr_needs_classes_to_sort(attack: ApgdDlr | ApgdT, classes: int) -> None:
    x = torch.rand(2, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    y = model(x).argmax(1)
    with pytest.raises(Refused, match=f"sorts {classes + 1} logits and the model has {classes} classes; use the cross-entropy"):
        attack(model, x, y, Noise.rows(0, 2))


def test_the_first_image_that_is_misclassified_is_kept(net: nn.Module, batch: Batch) -> None:
    adversarial = ApgdCe(threat=Threat(eps=0.3), steps=20)(net, batch.x, batch.y, Noise(0, batch.index))
    with torch.no_grad():
        damage = margin(net(adversarial), batch.y)
    assert (damage > 0).float().mean() > 0.9
    more = ApgdCe(threat=Threat(eps=0.3), steps=40)(net, batch.x, batch.y, Noise(0, batch.index))
    done = damage > 0
    assert (adversarial[done] == more[done]).flatten(1).all(1).float().mean() > 0.9, "a broken sample is not moved on"


def test_what_is_broken_costs_nothing_more(net: nn.Module, batch: Batch) -> None:
    passed: list[int] = []

    def counted(x: Tensor) -> Tensor:
        passed.append(len(x))
        out: Tensor = net(x)
        return out

    model: Classifier = counted
    ApgdCe(threat=Threat(eps=0.3), steps=30)(model, batch.x, batch.y, Noise(0, batch.index))
    assert passed[0] == len(batch.y)
    assert sum(passed) < 0.5 * 31 * len(batch.y)


@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("l2", 1.0)])
@pytest.mark.parametrize("name", ["ce", "dlr", "t"])
def test_the_reference_breaks_as_many(net: nn.Module, batch: Batch, name: str, norm: str, eps: float) -> None:
    """Within 2.5 points of 200 images: starts differ, and so do a few samples."""
    reference = pytest.importorskip("pyautoattack.autopgd_base", reason="pyautoattack is not installed: nothing to compare with")
    threat, steps = Threat(norm=norm, eps=eps), 40
    mine = {"ce": ApgdCe, "dlr": ApgdDlr, "t": ApgdT}[name](threat=threat, steps=steps, **({"targets": 4} if name == "t" else {}))
    plain = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    common = {"n_iter": steps, "n_restarts": 1, "norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": eps, "seed": 0, "rho": 0.75}
    logger = logging.getLogger("reference")
    if name == "t":
        theirs = reference.APGDAttack_targeted(plain, **common, eot_iter=1, device="cpu", n_target_classes=4, logger=logger)
    else:
        theirs = reference.APGDAttack(plain, **common, loss=name, eot_iter=1, device="cpu", logger=logger)
    start = right(net, batch.x, batch.y)
    x, y = batch.x[start].contiguous(), batch.y[start]
    with torch.random.fork_rng():
        expected = right(net, theirs.perturb(x, y), y)
    found = right(net, mine(net, x, y, Noise(0, batch.index[start])), y)
    assert 0.02 < expected.float().mean() < 0.98, "a comparison at either end would say nothing"
    assert abs(int(found.sum()) - int(expected.sum())) <= 0.025 * len(batch.y)
