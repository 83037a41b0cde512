"""A small mixture, trained for a moment on digits, and its test images."""

from __future__ import annotations

import pytest
import torch

from dwf.core.types import Batch, Images, Spec
from dwf.data import Digits, ordered, subset
from dwf.methods import Dwf
from dwf.models import Gate, Mixture, ResNet


@pytest.fixture(scope="session")
def digits() -> Images:
    return subset(Digits()("test"), 60, 0)


@pytest.fixture(scope="session")
def batch(digits: Images) -> Batch:
    (whole,) = ordered(digits, len(digits))
    return whole


@pytest.fixture(scope="session")
def mixture(digits: Images) -> Mixture:
    """Two experts and a gate that know the training digits well enough to be attacked."""
    spec = Spec(classes=digits.classes, channels=1, height=16, width=16, mean=(0.3,), std=(0.35,))
    torch.manual_seed(0)
    method = Dwf(backbone=ResNet(depth=10, width=4), benign=1, fgsm=0, pgd=1, gate=Gate(hidden=16))
    model = method.model(spec)
    assert isinstance(model, Mixture)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for chunk in [*ordered(Digits()("train"), 100)] * 6:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(chunk.x), chunk.y).backward()
        optimizer.step()
    return model.eval()
