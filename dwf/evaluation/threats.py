"""Threats of the protocols: one norm and one radius, the step that PGD takes in it, and how rows are told apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from dwf.core.settings import Length, Settings
from dwf.core.types import Threat

RADII = {"linf": 8 / 255, "l2": 0.5}
"""The field's usual radius of each norm."""


class OneThreat(Settings):
    """Settings of a protocol with a single threat, which is its headline."""

    norm: Literal["linf", "l2"] = "linf"
    eps: Annotated[Length, Field(gt=0)] = RADII["linf"]
    """Radius; with norm "l2" and no other word it is 0.5."""

    @model_validator(mode="before")
    @classmethod
    def _usual_radius(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("norm") in RADII and "eps" not in data:
            return {**data, "eps": RADII[data["norm"]]}
        return data

    @model_validator(mode="after")
    def _threat_exists(self) -> OneThreat:
        try:
            _ = self.threat
        except ValidationError as error:
            raise ValueError(f"'eps' is {self.eps:g}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        return self

    @property
    def threat(self) -> Threat:
        """The headline."""
        return Threat(norm=self.norm, eps=self.eps)


def label(threat: Threat) -> str:
    """`linf8` for 8/255, `l2-0.5`: how rows of several threats are told apart."""
    if threat.norm == "l2":
        return f"l2-{threat.eps:g}"
    return f"linf{threat.eps * 255:.4g}"
