"""Defences: settings plus one generator per training phase. Each file holds the whole idea."""

from typing import Annotated

from pydantic import Field

from dwf.core.settings import Settings
from dwf.methods.adversarial import Adversarial
from dwf.methods.dwf import Dwf
from dwf.methods.plain import Plain
from dwf.methods.soe import Soe

METHODS: dict[str, type[Settings]] = {
    "adversarial": Adversarial,
    "dwf": Dwf,
    "plain": Plain,
    "soe": Soe,
}

AnyMethod = Annotated[Adversarial | Dwf | Plain | Soe, Field(discriminator="kind")]
"""One of METHODS, chosen by its `kind`."""

__all__ = ["METHODS", "Adversarial", "AnyMethod", "Dwf", "Plain", "Soe"]
