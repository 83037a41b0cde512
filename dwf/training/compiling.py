"""Whether a run is long enough to have its nets compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dwf.core.errors import Refused
from dwf.core.types import Images
from dwf.data import ordered
from dwf.models.compiled import can_compile, compile_nets
from dwf.models.cost import multiply_adds
from dwf.training.loop import Compile
from dwf.training.plan import Phase

WORTH = {"cpu": 3e12, "cuda": 1e15}
"""Multiply-adds of the forward passes of all clean images of a run from which on compiling costs less time than it saves: on a
processor twenty seconds of one core, where a minute of compiling saves a third of the passes with gradients; on GPUs assumed."""


def compile_phases(wish: Compile, phases: Sequence[Phase], images: Images) -> None:
    """Compile what `phases` train if the user wishes it, or leaves the choice and `images` and rounds make it worth while.

    Raises `Refused` where it cannot be done and the user insists.
    """
    device = images.pixels.device
    if wish == "always" and not can_compile(device.type):
        raise Refused(
            "train.compile is 'always', but torch.compile does not work here (on a processor it needs a C++ compiler); "
            "install one or set train.compile to 'auto'"
        )
    if wish == "auto" and _work(phases, images) >= WORTH.get(device.type, math.inf) and can_compile(device.type):
        wish = "always"
    if wish == "always":
        torch.compiler.reset()  # what an earlier run of this process left is not counted against this one's shapes
        for phase in phases:
            compile_nets(phase.subject)


def _work(phases: Sequence[Phase], images: Images) -> float:
    """Multiply-adds of one forward pass of each clean image of each epoch."""
    (one,) = ordered(images.take(torch.zeros(1, dtype=torch.int64, device=images.pixels.device)), 1)
    return sum(multiply_adds(phase.subject, one.x) * len(images) * phase.rounds / phase.parts for phase in phases)
