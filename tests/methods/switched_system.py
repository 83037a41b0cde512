"""An Immunity mixture whose parts all do something."""

from __future__ import annotations

from typing import Any

import torch
from tiny_methods import batch, build, tiny

from dwf.methods.immunity import SwitchedMixture


def system(**changes: Any) -> SwitchedMixture:
    """Four experts that differ, with batch-norm statistics of their own, and a gate that has opinions."""
    model = build(tiny("immunity", **changes))
    assert isinstance(model, SwitchedMixture)
    with torch.no_grad():
        for _ in range(3):
            model.train()(batch().x)
        model.gate.head.weight.mul_(5)
    return model.eval()
