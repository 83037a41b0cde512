"""Which alarms a run's evaluations asked, and how often chance alone would have raised one.

An alarm that nobody asked is not a good sign: `table3` by itself never tries a softened copy, a transfer or a black box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dwf.core.result import FlagEntry
from dwf.report.reading import Evaluated

TRUST = (
    *("fgsm_beats_pgd", "fgsm_overfit", "no_convergence", "nonmonotone", "large_eps_survives"),
    *("zero_gradient", "blackbox_beats_whitebox", "softened_transfer", "randomized"),
)
WORTH = ("gate_collapse", "no_specialisation", "dead_weight")

_ALWAYS = ("randomized",)
_OF_A_GATE = ("gate_collapse", "no_specialisation")
_OF_A_MIXTURE = ("softened_transfer", *WORTH)
_TABLE = ("fgsm_beats_pgd", "fgsm_overfit", "no_convergence")
_MASKING = (*_TABLE, "nonmonotone", "large_eps_survives", "blackbox_beats_whitebox")
_BY_PROTOCOL = {"table3": _TABLE, "masking": _MASKING, "full": _MASKING}
"""What each asks of every model; what it asks besides shows in the rows and facts of its result."""


@dataclass(frozen=True)
class Coverage:
    """The alarms of one run."""

    asked: tuple[str, ...]
    missing: tuple[str, ...]
    """Those that the model could raise and that nobody asked."""
    tests: dict[str, int | None]
    """Statistical tests by evaluation, for those that made any; None where the file does not say how many."""


def coverage(run: Sequence[Evaluated]) -> Coverage:
    """Over all evaluations of one run."""
    mixture = any(map(_several, run))
    possible = [code for code in (*TRUST, *WORTH) if mixture or code not in _OF_A_MIXTURE]
    found = {code for one in run for code in asked(one)} | {*raised(run)}
    tests = {one.name: one.result.flag_tests or None for one in run if one.protocol in _BY_PROTOCOL or one.result.flag_tests}
    return Coverage(
        asked=tuple(code for code in dict.fromkeys([*possible, *sorted(found)]) if code in found),
        missing=tuple(code for code in possible if code not in found),
        tests=tests,
    )


def asked(one: Evaluated) -> tuple[str, ...]:
    """The alarms that one evaluation could have raised."""
    result = one.result
    codes = [*_BY_PROTOCOL.get(one.protocol, ()), *_ALWAYS, *(_OF_A_GATE if _several(one) else ())]
    if "zero_gradient" in result.facts:
        codes.append("zero_gradient")
    if one.protocol in ("masking", "full") and any(entry.name.startswith("softened-") for entry in result.attacks):
        codes.append("softened_transfer")
    if one.protocol == "certified":
        codes.append("certificate_broken")
    if sum(name.endswith("/robust") for name in result.facts) > 1:
        codes.append("dead_weight")
    return tuple(codes)


def _several(one: Evaluated) -> bool:
    """Whether the model routes between experts: where there is one, no gate can fail and no expert be dead weight."""
    return any(len(entry.weights) > 1 for entry in (one.result.routing or {}).values())


def raised(run: Sequence[Evaluated]) -> dict[str, FlagEntry]:
    """The alarms of a run by code, trust before worth; of one that several evaluations raised, the first."""
    flags: dict[str, FlagEntry] = {}
    for flag in sorted((flag for one in run for flag in one.result.flags), key=lambda flag: flag.class_):
        flags.setdefault(flag.code, flag)
    return flags
