"""Measuring robustness so that the number can be believed."""

from typing import Annotated

from pydantic import Field

from dwf.core.settings import Settings
from dwf.evaluation.autoattack import AutoAttack
from dwf.evaluation.certified import Certified
from dwf.evaluation.full import Full
from dwf.evaluation.masking import Masking
from dwf.evaluation.moe import Moe
from dwf.evaluation.standard import Standard
from dwf.evaluation.table3 import Table3
from dwf.evaluation.transfer import Transfer

PROTOCOLS: dict[str, type[Settings]] = {
    "autoattack": AutoAttack,
    "certified": Certified,
    "full": Full,
    "masking": Masking,
    "moe": Moe,
    "standard": Standard,
    "table3": Table3,
    "transfer": Transfer,
}

AnyTable = Annotated[AutoAttack | Certified | Full | Masking | Moe | Standard | Table3 | Transfer, Field(discriminator="kind")]
"""One of PROTOCOLS, chosen by its `kind`."""

__all__ = ["PROTOCOLS", "AnyTable", "AutoAttack", "Certified", "Full", "Masking", "Moe", "Standard", "Table3", "Transfer"]
