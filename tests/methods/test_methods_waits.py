"""How often a step makes the host wait for the device: on a GPU the queue runs empty there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tiny_methods import Repeated, batch, build, ready, tiny
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("aten._local_scalar_dense", "aten.equal", "aten.nonzero", "aten.is_nonzero")


class Waits(TorchDispatchMode):
    """Counts the calls whose answer the host must have before it can go on."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func.overloadpacket)
        self.found[name] += name in WAITING
        return func(*args, **(kwargs or {}))


class Given(list[Any]):
    """Batches that lie ready, as a phase sees them."""

    precision = torch.float32


@pytest.mark.parametrize(("kind", "most"), [("plain", 0), ("free", 0), ("adversarial", 1), ("fast", 1), ("trades", 0), ("dwf", 2)])
def test_a_step_waits_only_for_the_guard_of_each_attacks_inputs(kind: str, most: int) -> None:
    method = tiny(kind)
    phase = method.phases(build(method))[-1]
    subject = ready(phase)
    batches, count = list(Repeated(batch(), 2)), 0
    with Waits() as waits:
        for update in phase.round(subject, Given(batches)):
            count += 1
            if update.also:
                update.loss.backward(inputs=update.also)
    assert count >= 2
    assert sum(waits.found.values()) == 2 * most, waits.found
