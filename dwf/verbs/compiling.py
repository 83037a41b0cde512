"""Whether a run is long enough to have its nets compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from dwf.core.errors import Refused
from dwf.core.types import Compile, Images
from dwf.data import ordered
from dwf.models.compiled import compile_nets, pays
from dwf.models.cost import multiply_adds
from dwf.training.plan import Phase

ENOUGH = {"cpu": 3e12, "cuda": 1e15}
"""Multiply-adds of the forward passes of all clean images of a run from which on compiling costs less time than it saves: on a
processor some twenty seconds of one core, where a minute of compiling saves a third of all that follows; on GPUs assumed."""


def compile_phases(wish: Compile, phases: Sequence[Phase], images: Images) -> None:
    """Compile what `phases` train if the user wishes it, or leaves the choice and `images` and rounds make it worth while.

    Raises `Refused` where it cannot be done and the user insists: without a compiler, or for nets that are not ours.
    """
    device = images.pixels.device
    if pays(wish, partial(_work, phases, images), ENOUGH.get(device.type, math.inf), device):
        torch.compiler.reset()  # what an earlier run of this process left is not counted against this one's shapes
        compiled = sum(compile_nets(phase.subject) for phase in phases)
        if wish == "always" and not compiled:
            raise Refused(
                "'train.compile' is 'always', but the nets of this run are none that dwf compiles ('resnet', 'wide-resnet', "
                "'googlenet'); "
                "choose such a backbone or set it to 'auto'"
            )


def _work(phases: Sequence[Phase], images: Images) -> float:
    """Multiply-adds of one forward pass of each clean image of each epoch."""
    (one,) = ordered(images.take(torch.zeros(1, dtype=torch.int64, device=images.pixels.device)), 1)
    return sum(multiply_adds(phase.subject, one.x) * len(images) * phase.rounds / phase.parts for phase in phases)
