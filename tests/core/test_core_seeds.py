"""Noise is a function of what it is for, and nothing else."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dwf.core.seeds import Noise, derive, drawing

indices = st.lists(st.integers(0, 2**40), min_size=1, max_size=8, unique=True)
seeds = st.integers(0, 2**62)
counters = st.integers(0, 1000)


def noise(seed: int, index: list[int]) -> Noise:
    return Noise(seed, torch.tensor(index, dtype=torch.int64))


@given(seeds, indices, counters, counters, st.randoms(use_true_random=False))
def test_a_sample_has_the_same_numbers_in_any_batch_and_order(
    seed: int, index: list[int], restart: int, step: int, random: object
) -> None:
    shape = (2, 3)
    together = noise(seed, index).uniform(shape, restart=restart, step=step)
    assert together.shape == (len(index), 2, 3)
    assert together.dtype == torch.float32
    order = random.sample(range(len(index)), len(index))
    shuffled = noise(seed, [index[place] for place in order]).uniform(shape, restart=restart, step=step)
    assert torch.equal(shuffled, together[order])
    for place, row in enumerate(index):
        assert torch.equal(noise(seed, [row]).uniform(shape, restart=restart, step=step)[0], together[place])
        alone = noise(seed, [row]).normal(shape, restart=restart, step=step)[0]
        assert torch.equal(alone, noise(seed, index).normal(shape, restart=restart, step=step)[place])


@given(seeds, st.integers(0, 2**40), counters, counters)
def test_a_larger_image_begins_with_the_same_numbers(seed: int, row: int, restart: int, step: int) -> None:
    small, large = (noise(seed, [row]).uniform((n,), restart=restart, step=step) for n in (5, 50))
    assert torch.equal(small, large[:, :5])


@given(seeds, indices, counters, counters)
def test_seed_sample_restart_and_step_each_change_the_numbers(seed: int, index: list[int], restart: int, step: int) -> None:
    def drawn(seed: int, index: list[int], restart: int, step: int) -> Tensor:
        return noise(seed, index).uniform((8,), restart=restart, step=step)

    here = drawn(seed, index, restart, step)
    assert len({tuple(row) for row in here.tolist()}) == len(index)
    for other in (
        drawn(seed + 1, index, restart, step),
        drawn(seed, [row + 1 for row in index], restart, step),
        drawn(seed, index, restart + 1, step),
        drawn(seed, index, restart, step + 1),
        drawn(seed, index, step + 7, restart + 1001),
    ):
        assert (other != here).any(1).all()


@given(seeds, indices, counters)
def test_lies_in_the_half_open_unit_interval(seed: int, index: list[int], step: int) -> None:
    values = noise(seed, index).uniform((64,), step=step)
    assert values.min() >= 0
    assert values.max() < 1


def test_moments_of_the_uniform() -> None:
    values = Noise.rows(0, 1000).uniform((1000,)).double()
    assert values.mean().item() == pytest.approx(1 / 2, abs=0.0015)  # five standard errors of 10**6 draws
    assert values.var().item() == pytest.approx(1 / 12, abs=0.0004)
    assert torch.histc(values, 20, 0, 1).sub(50_000).abs().max() < 1100
    assert torch.corrcoef(values[:, :20].T).triu(1).abs().max() < 0.17  # neighbouring pixels
    assert torch.corrcoef(values[:20]).triu(1).abs().max() < 0.17  # neighbouring samples


def test_moments_of_the_normal() -> None:
    values = Noise.rows(1, 1000).normal((1000,)).double()
    assert values.mean().item() == pytest.approx(0, abs=0.005)
    assert values.var().item() == pytest.approx(1, abs=0.0075)
    assert (values**4).mean().item() == pytest.approx(3, abs=0.05)
    assert (values < 1.0).double().mean().item() == pytest.approx(0.5 * (1 + math.erf(1 / math.sqrt(2))), abs=0.002)


@pytest.mark.parametrize("edge", [0.0, 2.0**-24, 0.5, 1 - 2.0**-24])
def test_the_normal_is_finite_at_the_edges_of_the_uniform(edge: float) -> None:
    class Edge(Noise):
        def uniform(self, shape: tuple[int, ...], *, restart: int = 0, step: int = 0) -> Tensor:
            return torch.full((len(self.index), *shape), edge)

    assert Edge.rows(0, 2).normal((3,)).isfinite().all()


def test_numbers_are_those_of_every_release() -> None:
    """Stored results name a seed; other numbers under the same seed would make them lies."""
    drawn = noise(5, [0, 7, 123456789]).uniform((3,), restart=1, step=2) * 2**24
    assert drawn.tolist() == [[12415348, 6862980, 13304022], [11428795, 6345392, 13077032], [9757200, 11769744, 223381]]
    assert Noise.rows(0, 8).permutation().tolist() == [1, 7, 5, 3, 0, 2, 4, 6]
    assert derive(0, "augment", "joint", 3) == 8654361049136817487
    assert derive(7) == 8333924190356522945


def test_nothing_is_drawn_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    Noise.rows(0, 4).normal((3, 3))
    Noise.rows(0, 4).permutation()
    assert torch.equal(torch.get_rng_state(), before)


@given(
    st.lists(st.tuples(seeds, st.lists(st.one_of(st.integers(0, 99), st.sampled_from(["a", "b", "ab"])), max_size=3)), max_size=9)
)
def test_purposes_have_seeds_of_their_own(purposes: list[tuple[int, list[str | int]]]) -> None:
    wanted = {(seed, *purpose) for seed, purpose in purposes}
    derived = {derive(*purpose) for purpose in wanted}
    assert len(derived) == len(wanted)
    assert all(0 <= seed < 2**63 for seed in derived)


def test_a_purpose_is_not_the_one_that_reads_alike() -> None:
    assert len({derive(0, 1, 23), derive(0, 12, 3), derive(0, 123), derive(1, 0, 23), derive(0, 23, 1)}) == 5


@given(seeds, st.integers(1, 60))
def test_permutation_holds_every_position_once(seed: int, count: int) -> None:
    assert sorted(Noise.rows(seed, count).permutation().tolist()) == list(range(count))


def test_permutations_differ_between_seeds() -> None:
    assert len({tuple(Noise.rows(seed, 20).permutation().tolist()) for seed in range(30)}) == 30


def test_parts_of_the_noise_are_the_noise_of_the_parts() -> None:
    whole = noise(3, [9, 4, 6, 1])
    mask, places = torch.tensor([True, False, True, False]), torch.tensor([0, 2])
    assert torch.equal(whole.take(mask).uniform((4,)), whole.uniform((4,))[mask])
    assert torch.equal(whole.take(places).uniform((4,)), whole.take(mask).uniform((4,)))
    assert whole.first(2).index.tolist() == [9, 4]


def test_what_models_draw_by_themselves_begins_at_the_seed_and_the_caller_keeps_his_own() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    with drawing(7, torch.device("cpu")):
        first = torch.rand(4)
    with drawing(7, torch.device("cpu")):
        assert torch.equal(torch.rand(4), first)
    with drawing(8, torch.device("cpu")):
        assert not torch.equal(torch.rand(4), first)
    assert torch.equal(torch.rand(4), expected)


def test_on_the_processor_no_other_devices_generator_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` sets them all, and only the processor's is put back."""
    monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("all generators were set"))
    with drawing(7, torch.device("cpu")):
        assert torch.initial_seed() == 7
