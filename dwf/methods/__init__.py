"""Defences: settings plus one generator per training phase. Each file holds the whole idea."""

from typing import Annotated

from pydantic import Field

from dwf.methods.adversarial import Adversarial
from dwf.methods.dwf import Dwf
from dwf.methods.fast import Fast
from dwf.methods.free import Free
from dwf.methods.plain import Plain
from dwf.methods.trades import Trades

AnyMethod = Annotated[Adversarial | Dwf | Fast | Free | Plain | Trades, Field(discriminator="kind")]
"""One of METHODS, chosen by its `kind`."""

METHODS: dict[str, type[AnyMethod]] = {
    "adversarial": Adversarial,
    "dwf": Dwf,
    "fast": Fast,
    "free": Free,
    "plain": Plain,
    "trades": Trades,
}

__all__ = ["METHODS", "Adversarial", "AnyMethod", "Dwf", "Fast", "Free", "Plain", "Trades"]
