"""The frozen base of every setting: an unknown key, a wrong type or a wrong name is refused with path, value and remedy."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from dwf.core.errors import Refused


class Settings(BaseModel):
    """Frozen, strict about its keys, and the very object that runs. A subclass with a `kind` is a member of a registry."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def read(cls, data: Mapping[str, Any], *, where: str = "settings") -> Self:
        """The settings that `data` describes; raises `Refused` with one sentence about the first thing that is wrong."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise Refused(f"{where}: {_sentence(cls, error.errors()[0])}") from None

    def deviations(self) -> dict[str, Any]:
        """Fields that differ from their defaults, as JSON values, without `kind`."""
        return {k: v for k, v in self.model_dump(mode="json", exclude_defaults=True).items() if k != "kind"}


def nearest(name: str, valid: list[str]) -> str:
    """A hint for a mistyped name: the closest valid one if there is any, and always the list."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Valid: {', '.join(sorted(valid))}"


LONGEST = 40
"""Characters of a number: "1e5000000" would take for ever to be one, and is no radius."""


def length(value: object) -> float:
    """A number of at least 0, given as 0.03, "0.03" or "8/255"."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)) or len(str(value)) > LONGEST:
            raise ValueError
        above, slash, below = str(value).partition("/")
        if "/" in below:  # Fraction would read 8/255/2 from the right
            raise ValueError
        number = float(Fraction(above) / Fraction(below if slash else 1)) if isinstance(value, str) else float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError("give a number like 0.031 or a fraction like '8/255'") from None
    if not 0 <= number < float("inf"):
        raise ValueError("it must be at least 0 and finite")
    return number


def fraction(value: object) -> float:
    """A share of the pixel range: a `length` below 1. Larger values, meant for 8-bit pixels, are refused with a hint."""
    number = length(value)
    if number >= 1:
        raise ValueError(f"it is a share of the pixel range and must be below 1; for 8-bit steps write '{number:g}/255'")
    return number


def size(value: object) -> int:
    """Bytes, given as a number of them or as "4GiB", "800 MB", "64KiB": powers of 1024 with an i, of 1000 without."""
    parts = re.fullmatch(r"([0-9.e+]+?) ?(?:([KMGT])(i?))?B?", str(value).strip(), re.IGNORECASE)
    try:
        if isinstance(value, bool) or parts is None:
            raise ValueError
        found = float(parts[1]) * (1024 if parts[3] else 1000) ** " KMGT".index((parts[2] or " ").upper())
    except (ValueError, OverflowError):
        raise ValueError("give a size such as 4GiB or 800MB") from None
    if not 2**20 <= found < float("inf"):
        raise ValueError("give a size of at least 1 MiB, such as 4GiB or 800MB")
    return int(found)


def sized(count: float) -> str:
    """Bytes in words, rounded up: `4.0 GiB`, `612 MiB`."""
    return f"{math.ceil(10 * count / 2**30) / 10:,.1f} GiB" if count >= 2**30 else f"{math.ceil(count / 2**20)} MiB"


Length = Annotated[float, BeforeValidator(length)]
"""A distance in pixel space, where a pixel runs from 0 to 1."""

PixelFraction = Annotated[float, BeforeValidator(fraction)]
"""A change of one pixel as a share of the pixel range: 8/255 is 0.0314."""

Limit = Annotated[int | None, BeforeValidator(lambda value: None if value is None else size(value))]
"""An amount of memory in bytes, or None for no limit."""


def _sentence(model: type[BaseModel], error: ErrorDetails) -> str:
    """One pydantic error as one sentence."""
    context: dict[str, Any] = error.get("ctx", {})
    path, keys = _walk(model, error["loc"])
    match error["type"]:
        case "extra_forbidden":
            return f"'{path}' is not a setting; {nearest(path.rpartition('.')[2], keys)}"
        case "missing":
            return f"'{path}' is required and was not given"
        case "union_tag_invalid":
            valid = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
            return f"'{path}.kind' is '{context['tag']}', which does not exist; {nearest(context['tag'], valid)}"
        case "union_tag_not_found":
            return f"'{path}' needs a 'kind'"
        case "value_error" if not error["loc"]:
            return str(context["error"])
        case "value_error":
            return f"'{path}' is {error['input']!r}: {context['error']}"
        case _:
            return f"'{path}' is {error['input']!r}: {error['msg'][0].lower() + error['msg'][1:]}"


def _walk(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, list[str]]:
    """The dotted path that the user typed (tags of discriminated unions left out) and the keys that are valid at its end."""
    path: list[str] = []
    here, owners = [model], [model]
    for part in location:
        tagged = [m for m in here if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        owning = [m for m in here if part in m.model_fields]
        if tagged and not owning:
            here = tagged
        else:
            path.append(str(part))
            owners = here or owners
            here = [member for m in owning for member in _members(m.model_fields[str(part)].annotation)] or (
                here if isinstance(part, int) else []
            )
    return ".".join(path) or "the whole", sorted({key for m in owners for key in m.model_fields})


def _members(annotation: object) -> list[type[BaseModel]]:
    """Every settings class that an annotation can hold: `A | B`, `Annotated[...]`, `tuple[A, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [member for argument in get_args(annotation) for member in _members(argument)]
