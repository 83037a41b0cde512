"""EoT-PGD (Athalye et al., ICML 2018): PGD on the expected loss of a model that is random by itself."""

from typing import Literal

from pydantic import Field

from dwf.attacks.pgd import Pgd


class EotPgd(Pgd):
    """PGD whose every step averages `draws` gradients. On a deterministic model it is PGD."""

    kind: Literal["eot-pgd"] = "eot-pgd"  # type: ignore[assignment]
    draws: int = Field(default=20, ge=1)
