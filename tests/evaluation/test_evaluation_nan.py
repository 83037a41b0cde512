"""NaN in a gradient or in logits is refused by every attack: to comparisons and to torch.sign it looks like robustness."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dwf.attacks import ApgdCe, ApgdDlr, ApgdT, Bim, CarliniWagner, EotPgd, Fgsm, Mim, Pgd, Square
from dwf.core.errors import Refused
from dwf.core.types import Attack, Batch, Threat
from dwf.evaluation.attacked import Attacked
from dwf.evaluation.autoattack import Reference
from dwf.evaluation.check import Check, Standing
from dwf.evaluation.reweighed import Reweighed
from dwf.evaluation.sweep import FgsmSweep, PgdSweep
from dwf.evaluation.victim import Victim
from dwf.models import ExpertBank, Mixture
from dwf.models.gate import UniformGate

THREAT = Threat(eps=0.1)


def victim(model: nn.Module) -> Victim:
    return Victim(model, torch.float32, seed=3)


class Root(nn.Module):
    """Finite logits, and a gradient that is NaN everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 0).sqrt().flatten(1).sum(1, keepdim=True) + torch.arange(10.0)


EUCLIDEAN = Threat(norm="l2", eps=0.5)
FOLLOWING = {
    **{kind.__name__: kind(threat=THREAT) for kind in (Fgsm, Bim, Mim, Pgd, EotPgd, ApgdCe, ApgdDlr, ApgdT)},
    "Pgd from the image": Pgd(threat=THREAT, steps=2, start="image"),
    "Pgd with restarts": Pgd(threat=THREAT, steps=2, restarts=2),
    "Pgd in L2": Pgd(threat=EUCLIDEAN, steps=2),
    "scaled Pgd": Pgd(threat=Threat(eps=0.1, scale=(2.0,)), steps=2),
    "CarliniWagner": CarliniWagner(),
}


@pytest.mark.parametrize("attack", FOLLOWING.values(), ids=FOLLOWING)
def test_an_attack_does_not_take_nan_for_robustness(attack: Attack, batch: Batch) -> None:
    with pytest.raises(Refused, match="input gradient is NaN or infinite and no attack can follow it"):
        Attacked("row", attack, after=())(victim(Root()), batch, Standing(batch))


CHECKS = {
    "fgsm": FgsmSweep((("fgsm", THREAT),)),
    "pgd": PgdSweep(THREAT, 0.05, (1, 2), 3, 2, 1),
    "autoattack": Reference(THREAT, "standard"),
}


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_check_does_not_take_nan_for_robustness(check: Check, batch: Batch) -> None:
    right = Batch(batch.x, torch.full_like(batch.y, 9), batch.index)
    with pytest.raises(Refused, match="input gradient is NaN or infinite and no attack can follow it"):
        check(victim(Root()), right, Standing(right))


def test_reweighing_does_not_take_nan_for_robustness(batch: Batch) -> None:
    mixture = Mixture(ExpertBank([Root(), Root()]), UniformGate(2), "logits")
    with pytest.raises(Refused, match="input gradient is NaN or infinite and no attack can follow it"):
        Reweighed(THREAT, steps=2, after=())(victim(mixture), batch, Standing(batch))


def test_an_attack_does_not_take_nan_logits_for_robustness(batch: Batch) -> None:
    class Torn(nn.Module):
        """Right on the images of the test set, and NaN on all others."""

        def forward(self, x: Tensor) -> Tensor:
            logits = 10 * nn.functional.one_hot(batch.y[: len(x)], 10)
            return torch.where((x == batch.x[: len(x)]).flatten(1).all(1)[:, None], logits, torch.nan)

    with pytest.raises(Refused, match="NaN or infinite logits under attack"):
        Attacked("square", Square(threat=THREAT, queries=3), after=())(victim(Torn()), batch, Standing(batch))
