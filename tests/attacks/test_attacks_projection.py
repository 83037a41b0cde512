"""Properties of the projection onto ball and box, over any images and moves."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dwf.attacks.engine import project
from dwf.core.types import Threat

threats = st.one_of(
    st.floats(0, 0.999).map(lambda eps: Threat(eps=eps)),
    st.floats(0, 20).map(lambda eps: Threat(norm="l2", eps=eps)),
)
seeds = st.integers(0, 2**31)
scales = st.sampled_from([0.0, 1e-8, 1e-3, 0.1, 1.0, 100.0, 1e6])


def drawn(seed: int, scale: float) -> tuple[Tensor, Tensor]:
    """Images with pixels at the walls, and where a step of that size has brought them."""
    source = torch.Generator().manual_seed(seed)
    x = (torch.rand(4, 3, 5, 5, generator=source) * 1.4 - 0.2).clamp(0, 1)
    return x, x + scale * torch.randn(x.shape, generator=source)


def radius(change: Tensor, threat: Threat) -> Tensor:
    flat = change.double().flatten(1)
    return flat.abs().amax(1) if threat.norm == "linf" else flat.norm(dim=1)


@given(threats, seeds, scales)
def test_lands_in_the_ball_and_in_the_box(threat: Threat, seed: int, scale: float) -> None:
    x, moved = drawn(seed, scale)
    inside = project(moved, x, threat)
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert (radius(inside - x, threat) <= threat.eps * (1 + 1e-5) + 1e-6).all()


@given(threats, seeds, scales)
def test_a_second_time_changes_nothing(threat: Threat, seed: int, scale: float) -> None:
    x, moved = drawn(seed, scale)
    once = project(moved, x, threat)
    twice = project(once, x, threat)
    torch.testing.assert_close(twice, once, rtol=0, atol=0 if threat.norm == "linf" else 1e-6)


@given(threats, seeds, st.floats(0, 0.99))
def test_what_is_inside_stays_where_it_is(threat: Threat, seed: int, share: float) -> None:
    x, moved = drawn(seed, 1)
    change = moved - x
    within = (x + change * (share * threat.eps / radius(change, threat)).float().view(-1, 1, 1, 1)).clamp(0, 1)
    torch.testing.assert_close(project(within, x, threat), within, rtol=0, atol=1e-6)


@given(threats, seeds, scales)
def test_does_not_write_into_its_arguments(threat: Threat, seed: int, scale: float) -> None:
    x, moved = drawn(seed, scale)
    before = x.clone(), moved.clone()
    project(moved, x, threat).fill_(0.25)
    assert torch.equal(x, before[0])
    assert torch.equal(moved, before[1])


@given(threats, seeds, st.sampled_from([0.1, 1.0, 100.0]))
def test_is_the_nearest_point_of_the_ball(threat: Threat, seed: int, scale: float) -> None:
    """Far from the walls: no point of the ball, on the way to any other image, is nearer to where the step led."""
    x = torch.full((4, 3, 5, 5), 0.5)
    small = threat.model_copy(update={"eps": threat.eps / 50})
    _, moved = drawn(seed, scale)
    inside = project(moved, x, small)
    source = torch.Generator().manual_seed(seed + 1)
    other = project(x + torch.randn(x.shape, generator=source), x, small)
    for share in (0.01, 0.5, 1.0):
        nearby = inside + share * (other - inside)
        assert ((moved - nearby).flatten(1).norm(dim=1) >= (moved - inside).flatten(1).norm(dim=1) * (1 - 1e-5) - 1e-6).all()
