"""What is counted before a phase is trained agrees with arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_phases import images, net, phase

from dwf.attacks import Pgd
from dwf.core.types import Batch
from dwf.data import ordered
from dwf.training.calibration import calibrate, counted, kept, paced
from dwf.training.plan import Batches, Update

CLASSES, NUMBERS = 2, 8
FORWARD = 2 * NUMBERS * CLASSES
"""Products and sums of one image through the toy's only matrix."""


def batch(count: int) -> Batch:
    (whole,) = ordered(images(count), count)
    return whole


def attacked(model: nn.Module, batches: Batches, choices: tuple[int, ...] = (1, 2, 9)) -> Iterator[Update]:
    for draw in batches:
        x = Pgd(steps=draw.random.choice(choices))(model, draw.x, draw.y, draw.noise)
        yield Update(F.cross_entropy(model(x), draw.y))


@pytest.mark.parametrize("count", [1, 6])
def test_a_step_is_a_forward_pass_and_the_gradient_of_its_weights(count: int) -> None:
    found = counted(phase(net()), batch(count), torch.float32)
    assert found.flops == 2 * FORWARD * count
    assert found.products == 2, "however many images"


@pytest.mark.parametrize("choices", [(1, 2, 9), (2, 3), (2, 3, 5, 7, 10)])
def test_the_attack_is_counted_at_the_mean_of_its_numbers_of_steps(choices: tuple[int, ...]) -> None:
    found = counted(phase(net(), partial(attacked, choices=choices)), batch(4), torch.float32)
    assert found.flops == pytest.approx((2 * fmean(choices) + 2) * FORWARD * 4)
    assert found.typical == (2 * int(fmean(choices)) + 2) * FORWARD * 4, "what is timed is a step that there is"


def test_an_attack_on_tenths_of_a_batch_is_counted_as_such() -> None:
    def partly(model: nn.Module, batches: Batches) -> Iterator[Update]:
        for draw in batches:
            count = max(1, round(0.3 * len(draw.y)))
            x = Pgd(steps=5)(model, draw.x[:count], draw.y[:count], draw.noise.first(count))
            yield Update(F.cross_entropy(model(torch.cat([x, draw.x[count:]])), draw.y))

    assert calibrate(phase(net(), partly), batch(20), torch.float32, 0.0).flops == pytest.approx((2 * 5 * 0.3 + 2) * FORWARD)


def test_a_phase_that_grows_is_counted_from_its_beginning_to_its_end() -> None:
    def growing(model: nn.Module, batches: Batches) -> Iterator[Update]:
        for draw in batches:
            x = Pgd(steps=1 + int(4 * draw.progress))(model, draw.x, draw.y, draw.noise)
            yield Update(F.cross_entropy(model(x), draw.y))

    found = counted(replace(phase(net(), growing), grows=True), batch(4), torch.float32)
    assert found.flops == (2 * 2.5 + 2) * FORWARD * 4


def test_memory_is_counted_on_a_few_images_for_any_batch() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(NUMBERS, 1000), nn.Tanh(), nn.Linear(1000, CLASSES))
    memory = calibrate(phase(wide), batch(8), torch.float32, 0.0).memory
    image, parameters = 4 * 1000, sum(p.nbytes for p in wide.parameters())
    # For one image the gradients are the worst: momentum, gradients, and one temporary of weight decay or none.
    assert 2 * parameters <= memory.peak(1) <= 3 * parameters
    # For many, their activations: what tanh takes, its result, and one gradient of that size; momentum lies beside.
    assert 2 * image * 10_000 <= memory.peak(10_000) <= 3 * image * 10_000 + 3 * parameters


def test_more_steps_do_not_keep_more_alive() -> None:
    def long(model: nn.Module, batches: Batches) -> Iterator[Update]:
        for draw in batches:
            x = Pgd(steps=20)(model, draw.x, draw.y, draw.noise)
            yield Update(F.cross_entropy(model(x), draw.y))

    few, many = (kept(phase(net(), each), batch(4), torch.float32).memory.peak(4) for each in (attacked, long))
    assert many == few


def test_timing_grows_to_what_the_budget_allows() -> None:
    asked: list[int] = []
    assert paced(asked.append, 1000, budget=1e6) > 0
    assert asked == [8, 8, *[1000] * 5]
    asked.clear()
    paced(asked.append, 1000, budget=0.0)
    assert asked == [8, 8, 8, 8]
    asked.clear()
    paced(asked.append, 3, budget=1e6)
    assert asked == [3, 3, *[3] * 5]
