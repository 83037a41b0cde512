"""Fast adversarial training: FGSM from a uniform start, with a step that reaches across the ball, and its guard."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_methods import Repeated, batch, build, ready, run, tiny, trained
from torch import Tensor, nn

from dwf.core import journal
from dwf.core.types import Threat
from dwf.methods import Fast
from dwf.run import presets, read

EPS = 0.04


def attacked() -> tuple[Tensor, Tensor]:
    """Images, and what the net learned from in their place."""
    method = tiny("fast", threat=Threat(eps=EPS))
    (phase,) = method.phases(build(method))
    subject, asked = ready(phase), []

    def note(found: nn.Module, args: tuple[Tensor]) -> None:
        if found is subject and found.training:
            asked.append(args[0].detach().clone())

    subject.register_forward_pre_hook(note)
    list(phase.round(subject, Repeated(batch(100), 1)))
    (x,) = asked
    return batch(100).x, x


def test_whole_batches_are_attacked_inside_ball_and_box() -> None:
    x, moved = attacked()
    assert (moved - x).abs().max() <= EPS + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert ((moved - x).abs().flatten(1).amax(1) > 0).all()


def test_the_step_of_1_25_eps_from_a_uniform_start_ends_at_the_border_five_times_in_eight() -> None:
    """u + 1.25 eps s, u uniform in [-eps, eps], is cut at the border where s u > -0.25 eps, and never nearer than 0.25 eps."""
    x, moved = attacked()
    inner = (x > EPS) & (x < 1 - EPS)  # where the box cuts nothing off
    size = (moved - x).abs()[inner] / EPS
    assert len(size) > 500
    assert size.min() >= 0.25 - 1e-4
    assert (size > 1 - 1e-4).float().mean().item() == pytest.approx(5 / 8, abs=0.06)


def test_the_journal_shows_fgsm_beside_pgd_every_round(tmp_path: Path) -> None:
    trained(run(tiny("fast"), select="best_val"), tmp_path)
    rounds = [record for record in journal.read(tmp_path / "train.jsonl") if record["event"] == "round"]
    assert len(rounds) == 3
    assert all({"sa", "fgsm", "ra"} <= set(record["validation"]) for record in rounds)


@pytest.mark.parametrize("name", [name for name in presets() if name.startswith("fast-")])
def test_every_preset_keeps_the_best_round(name: str) -> None:
    chosen = read(name)
    assert isinstance(chosen.method, Fast)
    assert chosen.train.select == "best_val"
    assert chosen.validation.threat == chosen.method.threat, "judged at the radius of the training"


def test_free_and_trades_are_judged_at_the_radius_of_their_training_as_well() -> None:
    assert torch.tensor([read(f"free-{data}").method.eps for data in ("cifar10", "digits")]).tolist() == pytest.approx(
        [8 / 255, 0.1]
    )
    assert read("free-digits").validation.threat.eps == read("trades-digits").method.threat.eps == 0.1
