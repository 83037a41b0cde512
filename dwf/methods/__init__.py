"""Defences: settings plus one generator per training phase. Each file holds the whole idea."""

from typing import Annotated

from pydantic import Field

from dwf.methods.adversarial import Adversarial
from dwf.methods.advmoe import Advmoe
from dwf.methods.dwf import Dwf
from dwf.methods.fast import Fast
from dwf.methods.free import Free
from dwf.methods.immunity import Immunity
from dwf.methods.jtdmoe import Jtdmoe
from dwf.methods.plain import Plain
from dwf.methods.rt_er import RtEr
from dwf.methods.soe import Soe
from dwf.methods.trades import Trades

AnyMethod = Annotated[
    Adversarial | Advmoe | Dwf | Fast | Free | Immunity | Jtdmoe | Plain | RtEr | Soe | Trades, Field(discriminator="kind")
]
"""One of METHODS, chosen by its `kind`."""

METHODS: dict[str, type[AnyMethod]] = {
    "adversarial": Adversarial,
    "advmoe": Advmoe,
    "dwf": Dwf,
    "fast": Fast,
    "free": Free,
    "immunity": Immunity,
    "jtdmoe": Jtdmoe,
    "plain": Plain,
    "rt-er": RtEr,
    "soe": Soe,
    "trades": Trades,
}

__all__ = [
    "METHODS",
    "Adversarial",
    "Advmoe",
    "AnyMethod",
    "Dwf",
    "Fast",
    "Free",
    "Immunity",
    "Jtdmoe",
    "Plain",
    "RtEr",
    "Soe",
    "Trades",
]
