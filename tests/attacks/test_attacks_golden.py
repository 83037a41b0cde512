"""Pixel agreement with the libraries where they follow the paper, on a normalising CIFAR net.

FGSM, BIM, PGD without start noise: torchattacks, foolbox and ART. MIM: torchattacks (foolbox takes the sign before the momentum,
which is another attack). L2 PGD: torchattacks and foolbox. 16 images: the libraries' mean over the batch only scales gradients by
a power of two, so no sign can turn.
"""

import copy
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwf.attacks import Bim, Fgsm, Mim, Pgd
from dwf.core.seeds import Noise
from dwf.core.types import Spec, Threat
from dwf.models import ResNet

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
LINF, L2 = Threat(eps=EPS), Threat(norm="l2", eps=0.5)
NOISE = Noise.rows(0, 16)
PGD = Pgd(threat=LINF, steps=STEPS, step=STEP, start="image")
PGD_L2 = Pgd(threat=L2, steps=STEPS, step=0.1, start="image")


def library(name: str) -> ModuleType:
    return pytest.importorskip(name, reason=f"{name} is not installed: nothing to compare with", exc_type=ImportError)


@pytest.fixture(scope="module")
def victim() -> tuple[nn.Module, Tensor, Tensor]:
    """A small net after a few steps of training, 16 images, and their labels."""
    spec = Spec(classes=tuple("abcdefghij"), channels=3, height=32, width=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    source = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(depth=10, width=8)(spec)
    x, y = torch.rand(16, 3, 32, 32, generator=source), torch.randint(10, (16,), generator=source)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval(), x, y


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def moved(x: Tensor, adversarial: Tensor) -> bool:
    return bool(((adversarial - x).abs().amax((1, 2, 3)) > 0.01).all())


def test_fgsm_is_that_of_torchattacks(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = victim
    ours = Fgsm(threat=LINF)(model, x, y, NOISE)
    assert moved(x, ours)
    same(ours, library("torchattacks").FGSM(model, eps=EPS)(x, y))


def test_bim_is_that_of_torchattacks(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = victim
    ours = Bim(threat=LINF, steps=STEPS, step=STEP)(model, x, y, NOISE)
    assert moved(x, ours)
    same(ours, library("torchattacks").BIM(model, eps=EPS, alpha=STEP, steps=STEPS)(x, y))


def test_pgd_is_that_of_torchattacks(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = victim
    same(PGD(model, x, y, NOISE), library("torchattacks").PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=False)(x, y))


def test_targeted_pgd_is_that_of_torchattacks(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, x, y = victim
    attack = library("torchattacks").PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=False)
    attack.set_mode_targeted_by_label(quiet=True)
    target = (y + 3) % 10
    same(PGD(model, x, y, NOISE, target), attack(x, target))


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_mim_is_that_of_torchattacks(victim: tuple[nn.Module, Tensor, Tensor], decay: float) -> None:
    model, x, y = victim
    ours = Mim(threat=LINF, steps=STEPS, step=STEP, decay=decay)(model, x, y, NOISE)
    assert not torch.equal(ours, PGD(model, x, y, NOISE))
    same(ours, library("torchattacks").MIFGSM(model, eps=EPS, alpha=STEP, steps=STEPS, decay=decay)(x, y))


def test_l2_pgd_is_that_of_torchattacks(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    """In fp64: without a sign nothing hides the rounding of the mean over the batch."""
    model, x, y = double(victim)
    ours = PGD_L2(model, x, y, NOISE)
    assert ((ours - x).flatten(1).norm(dim=1) > 0.4).all()
    same(ours, library("torchattacks").PGDL2(model, eps=0.5, alpha=0.1, steps=STEPS, random_start=False)(x, y))


def double(victim: tuple[nn.Module, Tensor, Tensor]) -> tuple[nn.Module, Tensor, Tensor]:
    model, x, y = victim
    return copy.deepcopy(model).double(), x.double(), y


def by_foolbox(attack: str, epsilon: float, victim: tuple[nn.Module, Tensor, Tensor], **settings: object) -> Tensor:
    foolbox = library("foolbox")
    model, x, y = victim
    _, clipped, _ = getattr(foolbox.attacks, attack)(random_start=False, **settings)(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=epsilon
    )
    return clipped


def test_fgsm_is_that_of_foolbox(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    same(Fgsm(threat=LINF)(*victim, NOISE), by_foolbox("FGSM", EPS, victim))


def test_bim_is_that_of_foolbox(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    theirs = by_foolbox("LinfBasicIterativeAttack", EPS, victim, abs_stepsize=STEP, steps=STEPS)
    same(Bim(threat=LINF, steps=STEPS, step=STEP)(*victim, NOISE), theirs)


def test_pgd_is_that_of_foolbox(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    same(PGD(*victim, NOISE), by_foolbox("LinfPGD", EPS, victim, abs_stepsize=STEP, steps=STEPS))


def test_l2_pgd_is_that_of_foolbox(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    precise = double(victim)
    same(PGD_L2(*precise, NOISE), by_foolbox("L2PGD", 0.5, precise, abs_stepsize=0.1, steps=STEPS))


def by_art(attack: str, victim: tuple[nn.Module, Tensor, Tensor], **settings: object) -> Tensor:
    library("art.attacks.evasion")
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    model, x, y = victim
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), input_shape=(3, 32, 32), nb_classes=10, clip_values=(0, 1), device_type="cpu"
    )
    made = getattr(evasion, attack)(classifier, eps=EPS, num_random_init=0, batch_size=16, **settings)
    return torch.from_numpy(made.generate(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()]))


def test_fgsm_is_that_of_art(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    same(Fgsm(threat=LINF)(*victim, NOISE), by_art("FastGradientMethod", victim))


def test_pgd_is_that_of_art(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    theirs = by_art("ProjectedGradientDescentPyTorch", victim, eps_step=STEP, max_iter=STEPS, verbose=False)
    same(PGD(*victim, NOISE), theirs)


def test_bim_is_that_of_art(victim: tuple[nn.Module, Tensor, Tensor]) -> None:
    theirs = by_art("ProjectedGradientDescentPyTorch", victim, eps_step=STEP, max_iter=STEPS, verbose=False)
    same(Bim(threat=LINF, steps=STEPS, step=STEP)(*victim, NOISE), theirs)
