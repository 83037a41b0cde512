"""The sweep that measures savings, and the presets that make use of them: what they cost, by arithmetic on the real presets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from dwf.cells import cells_of, read_sweep
from dwf.core.types import Spec
from dwf.models import Mixture
from dwf.run import Run, read
from dwf.verbs.evaluate import read_protocol

FILE = Path(__file__).parents[2] / "sweeps" / "cost-cifar10-mini.toml"
PICTURE = Spec(classes=tuple("0123456789"), channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)


def passes(run: Run) -> tuple[float, float]:
    """Forward and backward passes of one net an image, all phases and epochs together."""
    with torch.device("meta"):
        model = run.method.model(PICTURE)
    totals = [0.0, 0.0]
    for phase in run.method.phases(model):
        nets = len(phase.subject.bank) if isinstance(phase.subject, Mixture) else 1
        for way, each in enumerate(run.method.cost()[phase.kind]):
            totals[way] += nets * each * phase.rounds / phase.parts
    return totals[0], totals[1]


def test_every_cell_costs_what_the_file_says() -> None:
    said = re.findall(r'^\[\[cells\]\] # \[([\d.]+)[^\]]*\].*\nname = "(.+)"', FILE.read_text(), re.MULTILINE)
    counted = {cell.name: passes(cell.run) for cell in cells_of(read_sweep(FILE))}
    assert [name for _, name in said] == list(counted)
    for cost, name in said:
        assert counted[name] == pytest.approx((float(cost),) * 2), name


def test_the_cells_are_judged_by_images_that_were_held_out() -> None:
    asked = read_sweep(FILE)
    assert (asked.split, asked.samples) == ("val", 500)
    (judging,) = asked.protocols
    protocol = read_protocol(judging.name, judging.set)
    assert protocol.kind == "standard"
    assert [(threat.norm, threat.eps) for threat in protocol.threats()] == [("linf", 8 / 255)]


def test_the_one_net_has_what_its_mixture_costs() -> None:
    runs = {cell.name: cell.run for cell in cells_of(read_sweep(FILE))} | {"nine": read("dwf-cifar10-mini")}
    for mixture, net in (("nine", "pgd-at-43"), ("three", "pgd-at-13"), ("fast", "pgd-at-9")):
        assert passes(runs[net])[0] / passes(runs[mixture])[0] == pytest.approx(1, abs=0.05)


FAST = [("dwf-cifar10-fast-mini", "dwf-cifar10-mini", 4.9), ("dwf-cifar10-fast", "dwf-cifar10", 90)]


@pytest.mark.parametrize(("fast", "full", "least"), FAST)
def test_the_fast_presets_take_a_fraction_of_the_passes_and_keep_gate_and_experts(fast: str, full: str, least: float) -> None:
    for saved, whole in zip(passes(read(fast)), passes(read(full)), strict=True):
        assert whole / saved >= least
    method = read(fast).method
    assert method.kind == "dwf"
    assert method.benign + method.fgsm + method.pgd >= 3
    assert method.gate.reads == "image"
