"""Attacks in pixel space: settings that are called with a classifier, images, labels and noise."""

from typing import Annotated

from pydantic import Field

from dwf.attacks.apgd import ApgdCe, ApgdDlr, ApgdT
from dwf.attacks.bim import Bim
from dwf.attacks.carlini_wagner import CarliniWagner
from dwf.attacks.eot_pgd import EotPgd
from dwf.attacks.fgsm import Fgsm
from dwf.attacks.mim import Mim
from dwf.attacks.pgd import Pgd
from dwf.attacks.square import Square
from dwf.core.settings import Settings

ATTACKS: dict[str, type[Settings]] = {
    "apgd-ce": ApgdCe,
    "apgd-dlr": ApgdDlr,
    "apgd-t": ApgdT,
    "bim": Bim,
    "carlini-wagner": CarliniWagner,
    "eot-pgd": EotPgd,
    "fgsm": Fgsm,
    "mim": Mim,
    "pgd": Pgd,
    "square": Square,
}

AnyAttack = Annotated[
    ApgdCe | ApgdDlr | ApgdT | Bim | CarliniWagner | EotPgd | Fgsm | Mim | Pgd | Square, Field(discriminator="kind")
]
"""One of ATTACKS, chosen by its `kind`."""

__all__ = ["ATTACKS", "AnyAttack", "ApgdCe", "ApgdDlr", "ApgdT", "Bim", "CarliniWagner", "EotPgd", "Fgsm", "Mim", "Pgd", "Square"]
