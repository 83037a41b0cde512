"""Schedules and recipes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwf.core.errors import Refused
from dwf.training.optim import Constant, Cosine, Recipe, Triangular


def test_cosine_starts_at_1_and_ends_at_0() -> None:
    assert Cosine()(0.0) == 1.0
    assert Cosine()(0.5) == pytest.approx(0.5)
    assert Cosine()(1.0) == pytest.approx(0.0)


def test_warm_up_rises_linearly_from_0_to_1() -> None:
    schedule = Cosine(warmup=0.2)
    assert schedule(0.0) == 0.0
    assert schedule(0.1) == pytest.approx(0.5)
    assert schedule(0.2) == pytest.approx(1.0)
    assert schedule(1.0) == pytest.approx(0.0)


@given(st.floats(0, 0.9), st.floats(0, 1), st.floats(0, 1))
def test_after_the_warm_up_it_only_falls(warmup: float, a: float, b: float) -> None:
    early, late = (warmup + (1 - warmup) * share for share in sorted((a, b)))
    assert 1 + 1e-9 >= Cosine(warmup=warmup)(early) >= Cosine(warmup=warmup)(late) - 1e-9 >= -2e-9


def test_constant_is_constant() -> None:
    assert {Constant()(n / 10) for n in range(11)} == {1.0}


@pytest.mark.parametrize(("change", "words"), [
    ({"epochs": 0}, "recipe: 'epochs' is 0: input should be greater than or equal to 1"),
    ({"optimizer": {"kind": "sgdd"}}, "'optimizer.kind' is 'sgdd', which does not exist; did you mean 'sgd'? Valid: adam, sgd"),
    ({"optimizer": {"kind": "sgd", "learning_rat": 1}}, "'optimizer.learning_rat' is not a setting; did you mean 'learning_rate'?"),
    ({"schedule": {"kind": "cosine", "warmup": 1}}, "recipe: 'schedule.warmup' is 1: input should be less than 1"),
])  # fmt: skip
def test_wrong_recipes_are_refused_in_a_sentence(change: dict[str, object], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        Recipe.read(change, where="recipe")
    assert words in str(refusal.value)


@given(st.integers(1, 20), st.floats(0, 1), st.floats(0, 0.999))
def test_triangles_repeat_between_low_and_1(cycles: int, low: float, progress: float) -> None:
    schedule = Triangular(cycles=cycles, low=low)
    assert low - 1e-9 <= schedule(progress) <= 1 + 1e-9
    assert schedule(0.0) == pytest.approx(low)
    assert schedule(0.5 / cycles) == pytest.approx(1.0)
    assert schedule(0.25 / cycles) == pytest.approx((1 + low) / 2)
    if progress < 1 - 1 / cycles:
        assert schedule(progress + 1 / cycles) == pytest.approx(schedule(progress), abs=1e-6)
