"""The radii of the dual model in results/digits-certified: proven, and held against attacks image by image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dwf.attacks import ApgdCe, Pgd
from dwf.core.seeds import Noise
from dwf.core.types import Threat
from dwf.data import ordered
from dwf.methods.jtdmoe import Dual
from dwf.models.bounds import Norm
from dwf.run import load, read

FOLDER = Path(__file__).parents[2] / "results" / "digits-certified" / "jtdmoe-lipschitz"
ATTACKED = 12


@pytest.fixture(scope="module")
def certified() -> tuple[Dual, Tensor, dict[Norm, Tensor]]:
    """The model, all test images, and the radius of each: 0 where the model is wrong."""
    loaded = load(FOLDER, torch.device("cpu"))
    assert loaded.run == read("jtdmoe-lipschitz-digits")
    model = loaded.model.eval()
    assert isinstance(model, Dual)
    images = loaded.run.data.source("test")
    (whole,) = ordered(images, len(images))
    with torch.no_grad():
        right = model(whole.x).argmax(1) == whole.y
        return model, whole.x, {norm: torch.where(right, model.certified(whole.x, norm), 0.0) for norm in ("l2", "linf")}


def broken(model: Dual, x: Tensor, threat: Threat) -> bool:
    """Whether PGD or APGD-CE changes the answer to one image (1, C, H, W)."""
    y = model(x).argmax(1)
    attacks = (Pgd(threat=threat, steps=10, step=threat.eps / 4), ApgdCe(threat=threat, steps=10))
    return any(bool(model(attack(model, x, y, Noise.rows(0, 1))).argmax(1).ne(y).any()) for attack in attacks)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_median_image_is_proven_within_a_255th(norm: Norm, certified: tuple[Dual, Tensor, dict[Norm, Tensor]]) -> None:
    _, _, radii = certified
    assert len(radii[norm]) == 500
    assert radii[norm].median() >= 1 / 255


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_nothing_breaks_inside_and_something_at_twenty_times_the_radius(
    norm: Norm, certified: tuple[Dual, Tensor, dict[Norm, Tensor]]
) -> None:
    model, x, radii = certified
    rows = radii[norm].nonzero().flatten()[:ATTACKED].tolist()
    assert len(rows) == ATTACKED
    widest = 0.99 if norm == "linf" else 8.0
    each = [(x[row : row + 1], radii[norm][row].item()) for row in rows]
    assert not any(broken(model, image, Threat(norm=norm, eps=radius)) for image, radius in each)
    assert any(broken(model, image, Threat(norm=norm, eps=min(20 * radius, widest))) for image, radius in each)
