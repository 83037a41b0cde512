from __future__ import annotations

import pytest
import torch
from torch import nn

from dwf.attacks import Fgsm, Pgd
from dwf.core.errors import Refused
from dwf.core.types import Batch, Threat
from dwf.evaluation import Table3
from dwf.evaluation.check import Scope, Standing
from dwf.evaluation.sweep import Clean, FgsmSweep, PgdSweep
from dwf.evaluation.victim import Victim
from dwf.models import Mixture

EPS, STEP = 0.1, 0.03
THREAT = Threat(eps=EPS)
SCOPE = Scope(classes=10, pixels=256, deviations=(0.35,))


def victim(model: nn.Module) -> Victim:
    return Victim(model, torch.float32, seed=3)


def sweep(restarts: int = 3, draws: int = 1) -> PgdSweep:
    return PgdSweep(THREAT, STEP, (2, 4), 8, restarts, draws)


def test_fgsm_rows_equal_the_attack_run_by_itself(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    found = FgsmSweep((("a", Threat(eps=0.03)), ("b", THREAT)))(target, batch, Standing(batch))
    for name, eps in (("a", 0.03), ("b", EPS)):
        alone = Fgsm(threat=Threat(eps=eps))(target.copy, batch.x, batch.y, target.noise(batch))
        assert torch.equal(found.bits[name], target.verdict(alone, batch.x, batch.y, Threat(eps=eps)))
    assert not found.bits["b"].all()


def test_all_radii_cost_one_gradient(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    FgsmSweep(tuple((f"r{n}", Threat(eps=n / 100)) for n in range(1, 11)))(target, batch, Standing(batch))
    assert target.meter.backwards == len(batch.y)
    assert target.meter.forwards == (1 + 10) * len(batch.y)


def test_snapshots_equal_shorter_attacks(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    found = sweep()(target, batch, Standing(batch)).bits
    for steps, row in ((2, "pgd-2"), (4, "pgd-4"), (8, "pgd-8-eot1")):
        alone = Pgd(threat=THREAT, steps=steps, step=STEP)(target.copy, batch.x, batch.y, target.noise(batch))
        assert torch.equal(found[row], target.verdict(alone, batch.x, batch.y, THREAT)), row


def test_restarts_run_on_survivors_and_only_break_more(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    bits = sweep()(target, batch, Standing(batch)).bits
    once, thrice = bits["pgd-8-eot1"], bits["pgd-8x3"]
    assert (thrice <= once).all()
    spent = target.meter.backwards
    assert 8 * len(batch.y) <= spent <= 8 * (len(batch.y) + 2 * int(once.sum())), "the second and third start skip the broken"
    assert torch.equal(sweep(restarts=1)(victim(mixture), batch, Standing(batch)).bits["pgd-8x1"], once)


def test_any_iterate_breaks_at_least_what_the_last_breaks(mixture: Mixture, batch: Batch) -> None:
    bits = sweep()(victim(mixture), batch, Standing(batch)).bits
    for row in ("pgd-2", "pgd-4", "pgd-8x3", "pgd-8-eot1"):
        assert (bits[f"{row}-worst"] <= bits[row]).all(), row
    assert (bits["pgd-4-worst"] <= bits["pgd-2-worst"]).all(), "more steps hold all iterates of fewer"


def test_a_worst_iterate_is_found_where_the_last_one_recovers(batch: Batch) -> None:
    class Pit(nn.Module):
        """Wrong only while 10 to 40 % of the pixels touch the ball: the ascent passes through that, and ends beyond it."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            touching = ((x - batch.x).abs() > EPS - 1e-6).flatten(1).float().mean(1)
            wrong = (touching > 0.1) & (touching < 0.4)
            true = torch.zeros(len(x), 10).scatter(1, batch.y[:, None], 1.0)
            return torch.where(wrong[:, None], -true, true) - x.mean((1, 2, 3))[:, None] * true * 1e-3

    bits = PgdSweep(THREAT, 0.03, (6,), 7, 1, 1)(victim(Pit()), batch, Standing(batch)).bits
    assert bits["pgd-6"].float().mean() > 0.9
    assert bits["pgd-6-worst"].float().mean() < 0.1


def test_eot_averages_draws(mixture: Mixture, batch: Batch) -> None:
    target = victim(mixture)
    bits = sweep(restarts=1, draws=3)(target, batch, Standing(batch)).bits
    assert "pgd-8-eot3" in bits
    assert target.meter.backwards == 8 * len(batch.y) * (1 + 3)


def test_the_verdict_pulls_images_back_into_ball_and_box(mixture: Mixture, batch: Batch) -> None:
    far = torch.ones_like(batch.x) * 5
    assert torch.equal(
        victim(mixture).verdict(far, batch.x, batch.y, Threat(eps=0)),
        Clean()(victim(mixture), batch, Standing(batch)).bits["clean"],
    )


def test_nan_logits_are_refused(batch: Batch) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 10), torch.nan)

    with pytest.raises(Refused, match="NaN or infinite logits"):
        Clean()(victim(Broken()), batch, Standing(batch))


def test_nan_pixels_are_refused(mixture: Mixture, batch: Batch) -> None:
    spoiled = Batch(batch.x.clone().index_fill_(0, torch.tensor([1]), torch.nan), batch.y, batch.index)
    with pytest.raises(Refused, match=r"images reach from nan to nan, an attack needs \[0, 1\]"):
        Clean()(victim(mixture), spoiled, Standing(spoiled))


def test_table3_has_the_papers_rows() -> None:
    names = [row.name for check in Table3().checks(SCOPE) for row in check.rows() if row.iterate == "last"]
    fgsm = [f"fgsm-0.0{n}" for n in range(1, 10)]
    assert names == ["clean", *fgsm, "fgsm", "pgd-10", "pgd-20", "pgd-30", "pgd-40", "pgd-50", "pgd-100x3", "pgd-100-eot1"]


def test_table3_steps_follow_the_radius() -> None:
    assert Table3().checks(SCOPE)[2].rows()[0].step_size == pytest.approx(2 / 255)
    assert Table3(eps=0.02).checks(SCOPE)[2].rows()[0].step_size == pytest.approx(0.005)


@pytest.mark.parametrize("wrong", [{"steps": [10, 5]}, {"steps": [0, 10]}, {"final": 50}])
def test_table3_refuses_steps_that_do_not_ascend(wrong: dict[str, object]) -> None:
    with pytest.raises(Refused, match="must ascend strictly"):
        Table3.read(wrong)
