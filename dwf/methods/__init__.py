"""Defences: settings plus one generator per training phase. Each file holds the whole idea."""

from typing import Annotated

from pydantic import Field

from dwf.core.settings import Settings
from dwf.methods.adversarial import Adversarial
from dwf.methods.advmoe import Advmoe
from dwf.methods.dwf import Dwf
from dwf.methods.plain import Plain
from dwf.methods.soe import Soe

METHODS: dict[str, type[Settings]] = {
    "adversarial": Adversarial,
    "advmoe": Advmoe,
    "dwf": Dwf,
    "plain": Plain,
    "soe": Soe,
}

AnyMethod = Annotated[Adversarial | Advmoe | Dwf | Plain | Soe, Field(discriminator="kind")]
"""One of METHODS, chosen by its `kind`."""

__all__ = ["METHODS", "Adversarial", "Advmoe", "AnyMethod", "Dwf", "Plain", "Soe"]
