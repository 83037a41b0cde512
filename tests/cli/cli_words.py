"""What a command says, and the settings of an evaluation of seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Dwf = Callable[..., Said]
SMALL = ("protocol.steps=[1,2]", "protocol.final=3", "protocol.restarts=2", "protocol.fgsm_eps=[0.01,0.03]")
SMALL_NAME = "table3-fgsm_eps0.01_0.03-steps1_2-final3-restarts2"
