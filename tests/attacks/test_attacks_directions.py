"""Where an ascent moves and how far, when nobody says a step."""

from __future__ import annotations

import pytest
import torch
from attacked_nets import images, linear

from dwf.attacks import ApgdCe, Bim, EotPgd, Mim, Pgd
from dwf.attacks.engine import normalised, sign
from dwf.core.seeds import Noise
from dwf.core.types import Threat

X, Y = images()
NOISE = Noise(3, torch.arange(len(X)))


@pytest.mark.parametrize("size", [1e-38, 1e-20, 1e-12, 1.0, 1e20, 1e38])
def test_a_direction_has_length_one_however_short_the_gradient(size: float) -> None:
    gradient = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-3, 3) * size
    assert torch.linalg.vector_norm(normalised(gradient), dim=(1, 2, 3)).tolist() == pytest.approx([1.0] * 4)
    assert torch.equal(normalised(torch.zeros(2, 3, 8, 8)), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("attack", [Pgd(threat=Threat(norm="l2", eps=2)), ApgdCe(threat=Threat(norm="l2", eps=2), steps=20)])
def test_sure_logits_do_not_hold_an_l2_ascent_up(attack: Pgd | ApgdCe) -> None:
    """Their gradients are not 0, as Linf attacks on them show, and far too short to be squared."""
    model = linear(2)
    with torch.no_grad():
        top, y = model(X).topk(2).values, model(X).argmax(1)
    for sure in (1.0, float(60 / (top[:, 0] - top[:, 1]).amax())):
        assert (model(attack(lambda x, sure=sure: sure * model(x), X, y, NOISE)).argmax(1) != y).all()


def test_the_sign_of_what_is_no_number_is_no_number() -> None:
    found = sign(torch.tensor([torch.nan, torch.inf, -torch.inf, -3.0, 0.0, 1e-38] * 7))[:6]
    assert found[:3].isnan().all()
    assert found[3:].tolist() == [-1, 0, 1]


@pytest.mark.parametrize("kind", [Pgd, Bim, Mim, EotPgd])
def test_the_usual_step_follows_the_threat(kind: type[Pgd | Bim | Mim | EotPgd]) -> None:
    assert kind().step == kind(steps=50).step == 2 / 255
    assert kind(threat=Threat(eps=0.02), steps=50).step == pytest.approx(0.005)
    assert kind(threat=Threat(norm="l2", eps=0.5)).step == kind(threat=Threat(norm="l2", eps=0.5), steps=50).step == 0.125
    assert kind(threat=Threat(eps=0.3)).step == pytest.approx(0.075), "so few steps of 2/255 would not cross the ball"
    assert kind.read({"threat": {"norm": "l2", "eps": 1}, "step": 0.01}).step == 0.01


def test_an_ascent_in_an_empty_ball_leaves_a_copy() -> None:
    found = ApgdCe(threat=Threat(eps=0))(linear(), X, Y, NOISE)
    assert torch.equal(found, X)
    assert found.data_ptr() != X.data_ptr()
