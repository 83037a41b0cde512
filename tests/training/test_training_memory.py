"""What is counted on two images holds for any batch, and the cheapest measures below a cap are chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_phases import images, net, phase

from dwf.core.types import Recompute
from dwf.data import ordered
from dwf.models import ExpertBank
from dwf.training.calibration import kept
from dwf.training.footprint import Footprint, resident, tellable
from dwf.training.memory import FEWEST, LOOSE, MODES, TIGHT, Demand, Measures, choose

MIB = 2**20


def layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.LazyLinear(20), nn.Linear(20, 3))


def test_the_record_of_a_few_images_tells_the_peak_of_others() -> None:
    def record(rows: int) -> Footprint:
        model = layers()
        model(torch.rand(2, 1, 8, 8))  # what is lazy is made
        x = torch.rand(rows, 1, 8, 8)
        with Footprint(model, rows) as footprint:
            F.cross_entropy(model(x), torch.zeros(rows, dtype=torch.int64)).backward()
        return footprint

    few = record(4)
    for rows in (2, 5, 64):
        assert few.peak(rows) == pytest.approx(record(rows).peak(rows), rel=1e-2)
    assert few.peak(64) < 64 * few.peak(2) / 2, "gradients do not grow with the batch"


@pytest.mark.parametrize(("classes", "rows"), [(10, 2), (2, 3), (4, 3), (6, 4)])
def test_features_of_the_recorded_images_look_like_no_weight(classes: int, rows: int) -> None:
    assert tellable(nn.Sequential(nn.Linear(64, 32), nn.Linear(32, classes))) == rows


def test_what_was_there_and_views_of_it_are_not_counted() -> None:
    model, x = net(), torch.rand(3, 1, 2, 4)
    with Footprint(model, 3) as footprint:
        kept = x.flatten(1).add_(1)[:, :2]
        model[1].weight.data.mul_(2)
    assert footprint.peak(3) == 0
    with footprint:
        for number in range(3):
            made = kept + number
            del made
    assert footprint.peak(3) == 3 * 2 * 4, "one was given back before the next was made"
    assert footprint.peak(6) == 6 * 2 * 4


def test_what_is_shaped_like_a_weight_does_not_grow() -> None:
    model = net()
    with Footprint(model, 3) as footprint:
        copied = model[1].weight.detach().t().clone()
    assert footprint.peak(300) == copied.nbytes == 8 * 2 * 4
    assert resident(model) == 4 * (8 * 2 + 2)


def test_the_optimizers_memory_is_there_from_the_first_step() -> None:
    (whole,) = ordered(images(4), 4)
    count = kept(phase(net()), whole, torch.float32)
    assert count.optimizers == 4 * (8 * 2 + 2)
    assert count.memory.peak(1) >= 2 * count.optimizers, "momentum and gradients"


class Flat(Footprint):
    """So many bytes for every image."""

    def __init__(self, each: int) -> None:
        super().__init__(net(), 1)
        self.each = each

    def peak(self, images: int) -> int:
        return self.each * images


def demand(mode: Recompute, *, validation: int = 1) -> Demand:
    """A step of 100, 20 or 15 bytes an image beside 1,000 bytes of process and 200 of model."""
    step = {"never": 100, "learning": 20, "always": 15}[mode]
    return Demand(before=1000, model=200, step=Flat(step), optimizers=50, validation=Flat(validation), between=100, waiting=30)


THRIFTY = Measures(thrifty=True)


def chosen(cap: int, parts: tuple[int, ...] = (1, 2, 4, 64), least: Measures = THRIFTY, **changes: int) -> Measures:
    return choose(cap, lambda mode: demand(mode, **changes), modes=MODES, batch=128, parts=parts, least=least)


def needs(mode: Recompute, images: int, share: float = TIGHT) -> int:
    return demand(mode).learning(images, share, cut=images < 128)


def test_measures_come_in_their_order_as_the_cap_falls() -> None:
    assert needs("never", 128, LOOSE) == 1000 + LOOSE * (200 + 12800)
    expected = [
        (needs("never", 128, LOOSE), Measures()),
        (needs("never", 128, LOOSE) - 1, Measures(thrifty=True)),
        (needs("never", 128) - 1, Measures(True, "learning")),
        (needs("learning", 128) - 1, Measures(True, "always")),
        (needs("always", 128) - 1, Measures(True, "learning", parts=2)),  # the fewest parts, then the fewest passes
        (needs("learning", 64) - 1, Measures(True, "always", parts=2)),
        (needs("always", 64) - 1, Measures(True, "learning", parts=4)),
    ]
    for cap, measures in expected:
        found = chosen(cap)
        assert (found.thrifty, found.recompute, found.parts) == (measures.thrifty, measures.recompute, measures.parts), cap
        assert found.expected <= cap
        assert found == chosen(cap), "the same every time"


def test_pieces_leave_gradients_for_the_last() -> None:
    step = demand("never")
    assert step.learning(8, 1.0, cut=True) - step.learning(8, 1.0) == 30
    assert replace(step, accumulates=True).learning(8, 1.0) == step.learning(8, 1.0, cut=True)


def test_without_an_allocator_to_tell_measures_promise_no_more() -> None:
    found = chosen(needs("never", 128, LOOSE) - 1, least=Measures())
    assert (found.thrifty, found.recompute) == (False, "learning")


def test_where_nothing_fits_the_least_is_told() -> None:
    least = chosen(1)
    assert (least.recompute, least.parts, least.validation) == ("learning", 64, FEWEST)  # a checkpoint takes more than two images
    assert least.expected == 1000 + round(TIGHT * (200 + 50 + 100))
    assert chosen(1, parts=(1,)).parts == 1


def test_validation_takes_fewer_images_at_once_before_anything_else_changes() -> None:
    cap = needs("never", 128)
    for each, at_once in ((50, 250), (60, 125), (110, 62)):  # of 12,600 bytes, less the optimizer's
        found = chosen(cap, validation=each)
        assert (found.recompute, found.parts, found.validation) == ("never", 1, at_once)


def test_demands_are_counted_only_as_far_as_needed() -> None:
    asked: list[Recompute] = []

    def ask(mode: Recompute) -> Demand:
        asked.append(mode)
        return demand(mode)

    choose(10**9, ask, modes=MODES, batch=128, parts=(1, 2), least=THRIFTY)
    assert asked == ["never"]
    choose(1, ask, modes=MODES, batch=128, parts=(1, 2, 4), least=THRIFTY)
    assert asked == ["never", *MODES], "each once"


def test_measures_reach_every_bank_and_say_what_they_do() -> None:
    model = nn.ModuleDict({"first": ExpertBank([net()]), "second": nn.Sequential(ExpertBank([net()]))})
    Measures(recompute="always").apply(model)
    assert {module.recompute for module in model.modules() if isinstance(module, ExpertBank)} == {"always"}
    Measures().apply(model)
    assert {module.recompute for module in model.modules() if isinstance(module, ExpertBank)} == {"never"}
    assert Measures(expected=3 * MIB).said() == "takes about 3 MiB"
    assert Measures(True, "learning", 4, expected=3 * MIB).said() == (
        "takes about 3 MiB: gives memory back at once, computes its experts again one by one to learn, "
        "cuts batches into 4 parts, of which batch-norm sees one at a time"
    )
