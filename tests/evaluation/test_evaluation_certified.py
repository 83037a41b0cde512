"""Protocol `certified`: radii beside attacks, plain words where nothing is proven, and an alarm where a proof is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.result import DatasetEntry, ModelEntry, Result
from dwf.core.types import Images, Spec
from dwf.data import Digits, ordered, subset
from dwf.evaluation import Certified
from dwf.evaluation.protocol import evaluate
from dwf.evaluation.tabulate import Subject
from dwf.models import Lipschitz, Mixture, ResNet

SPEC = Spec(classes=tuple("0123456789"), channels=1, height=8, width=8, mean=(0.3,), std=(0.35,))
QUICK = Certified(linf=(1 / 255,), l2=(0.02, 0.05), steps=3, apgd_steps=3, targets=1)


@pytest.fixture(scope="module")
def small() -> Images:
    return subset(Digits(size=8)("test"), 40, 0)


@pytest.fixture(scope="module")
def bounded() -> nn.Module:
    torch.manual_seed(0)
    net = Lipschitz(width=8, stages=1, scale=10)(SPEC)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for chunk in [*ordered(Digits(size=8)("train"), 200)] * 10:
        optimizer.zero_grad()
        F.cross_entropy(net(chunk.x), chunk.y).backward()
        optimizer.step()
    return net.eval()


def run(model: nn.Module, images: Images, folder: Path, protocol: Certified = QUICK, batch: int = 25) -> Result:
    subject = Subject(
        run="toy",
        model=ModelEntry(method="plain", settings={}, parameters=1, forward_passes=1),
        dataset=DatasetEntry(name=images.name, split="test", n=len(images), indices="all", sha256=images.sha256),
        classes=images.classes,
        device="cpu",
        versions=("0", "0"),
    )
    return evaluate(model, protocol, list(ordered(images, batch)), subject, folder, precision=torch.float32)


def test_radii_lie_beside_the_bits_and_their_shares_in_the_result(bounded: nn.Module, small: Images, tmp_path: Path) -> None:
    result = run(bounded, small, tmp_path)
    (file,) = tmp_path.glob("certified*[0-9].npz")
    with np.load(file) as stored:
        radii, clean = {norm: stored[f"radius/{norm}"] for norm in ("l2", "linf")}, stored["clean"]
    for norm, entry in result.certified.items():
        assert radii[norm].shape == (40,)
        assert (radii[norm] > 0).sum() > 20
        assert not radii[norm][~clean].any(), "a wrong image's radius is 0"
        assert (entry.median, entry.largest) == (np.median(radii[norm]), radii[norm].max())
        assert entry.median >= 1 / 255
        assert [share.value for share in entry.shares] == [(radii[norm] >= place).mean() for place in entry.radii]
        assert entry.radii[-1] == entry.largest
    assert (radii["linf"] <= radii["l2"] + 1e-9).all(), "a move in L2 by r is one in Linf by no more"
    assert (radii["linf"] >= radii["l2"] / 8 - 1e-9).all(), "64 pixels"
    assert result.facts["certified-l2-0.05"].value == (radii["l2"] >= 0.05).mean()
    assert result.flags == ()


def test_what_is_proven_is_never_broken(bounded: nn.Module, small: Images, tmp_path: Path) -> None:
    result = run(bounded, small, tmp_path)
    left = {(case.norm, round(case.eps, 6)): case.accuracy for case in result.worst_case}
    for name, key in (("l2-0.02", ("l2", 0.02)), ("l2-0.05", ("l2", 0.05)), ("linf1", ("linf", round(1 / 255, 6)))):
        assert 0 < result.facts[f"certified-{name}"].value <= left[key]


class Boastful(nn.Module):
    """Claims half of the pixel range for every image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def certified(self, x: Tensor, norm: str) -> Tensor:
        return torch.full(x.shape[:1], 100.0)


def test_a_broken_proof_is_an_alarm(bounded: nn.Module, small: Images, tmp_path: Path) -> None:
    wide = QUICK.model_copy(update={"linf": (0.3,), "l2": ()})
    (flag,) = (result := run(Boastful(bounded), small, tmp_path, wide)).flags
    assert (flag.code, flag.class_) == ("certificate_broken", "trust")
    assert "of the images that were certified at linf76.5: a bound is not a bound" in flag.cause
    assert result.certified["linf"].largest == 1.0, "no radius is wider than the pixel box"
    assert result.certified["l2"].largest == 8.0


def test_an_ordinary_net_proves_next_to_nothing(small: Images, tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = run(ResNet(depth=10, width=4)(SPEC).eval(), small, tmp_path)
    assert all(entry.largest < 1e-6 for entry in result.certified.values())
    assert all(result.facts[name].value == 0 for name in result.facts if name.startswith("certified-"))


def test_without_bounds_it_is_refused(mixture: Mixture, digits: Images, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no Lipschitz bound of a Mixture is known; certify nets of the kinds resnet"):
        run(mixture, digits, tmp_path)
