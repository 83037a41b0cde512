"""How numbers are written: percent with two decimals, radii in both units, times a person can read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

NORMS = {"linf": "Linf", "l2": "L2"}
ABSENT = "–"
"""Stands where nothing was measured."""


def percent(share: float) -> str:
    """0.91194 -> `91.19`."""
    return f"{100 * share:.2f}"


def interval(bounds: Sequence[float]) -> str:
    """(0.90, 0.92) -> `90.00 to 92.00`."""
    return f"{percent(bounds[0])} to {percent(bounds[1])}"


def decimal(eps: float) -> str:
    """0.031372549 -> `0.0314`."""
    return f"{eps:.4f}".rstrip("0").rstrip(".")


def of_255(eps: float) -> str:
    """0.031372549 -> `8/255`, 0.01 -> `2.55/255`."""
    return f"{eps * 255:.2f}".rstrip("0").rstrip(".") + "/255"


def radius(norm: str, eps: float) -> str:
    """A radius in both units: `8/255 (0.0314)`. An L2 radius is a length, not a share of the pixel range: `0.5`."""
    return f"{of_255(eps)} ({decimal(eps)})" if norm == "linf" else decimal(eps)


def threat(norm: str, eps: float, space: str = "pixel") -> str:
    """`Linf 8/255 (0.0314)` or `L2 0.5`; a length in the standardised space is said to be one."""
    return f"{NORMS.get(norm, norm)} {radius(norm, eps)}{_in(space)}"


def short_threat(norm: str, eps: float, space: str = "pixel") -> str:
    """`Linf 8/255` or `L2 0.5`, for headings."""
    return f"{NORMS.get(norm, norm)} {of_255(eps) if norm == 'linf' else decimal(eps)}{_in(space)}"


def _in(space: str) -> str:
    return "" if space == "pixel" else " in standardised space"


def count(number: float) -> str:
    """11173962 -> `11,173,962`."""
    return f"{number:,.0f}"


def plural(number: int, noun: str) -> str:
    """`1 image`, `2 images`, `1,000 images`."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """4000 -> `1 h 06 min`, 75 -> `1 min 15 s`, 3.21 -> `3.2 s`."""
    if not math.isfinite(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def listed(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(([", ".join(words[:-1])] if len(words) > 1 else []) + list(words[-1:]))


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def place(environment: Mapping[str, object]) -> str:
    """On what something ran, and how: "cpu (x86_64), 2 threads, bfloat16, compiled"."""
    device, threads, precision = (environment.get(key, "?") for key in ("device", "threads", "precision"))
    return f"{device}, {threads} threads, {precision}" + (", compiled" if environment.get("compiled") else "")
