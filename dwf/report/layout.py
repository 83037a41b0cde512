"""The paper's table: one line a run, SA | FGSM by radius | PGD by steps | MS | A, and what we add to it.

MS is the paper's PGD-100 with three restarts, A its PGD-100 with expectation over one draw. We add FGSM at PGD's own radius, which
shows at once whether FGSM beats PGD, and the worst case over everything that was run. Columns are made from the fields of the rows.

The other protocols have rows that only their own kind of model has, or that are cumulative: their table is SA and worst cases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dwf.core.result import AttackEntry, WorstCase
from dwf.core.wording import decimal, listed, of_255, radius, short_threat
from dwf.report.reading import Evaluated

Family = Literal["clean", "fgsm", "pgd", "restarts", "eot", "own", "other", "worst"]
ORDER: tuple[Family, ...] = ("clean", "fgsm", "pgd", "restarts", "eot", "own", "other", "worst")
PAPER = "table3"
"""The protocol whose rows are the columns of the paper's table."""
_WORST_SUFFIX = "-worst"


class Cell(NamedTuple):
    """One number of the table, a fraction in [0, 1], with its 95 % interval."""

    accuracy: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Column:
    """One column; `key` is the attack's name where it is an attack."""

    key: str
    family: Family
    label: str
    """Under its family's heading: `.01`, `10`."""
    note: str
    """What the label leaves out: `2.55/255`, `PGD-100 x 3`."""

    @property
    def heading(self) -> str:
        """The label on its own: `FGSM .01`, `PGD 10`."""
        if self.family in ("worst", "own"):
            return f"{self.label} {self.note}"
        return {"fgsm": "FGSM ", "pgd": "PGD "}.get(self.family, "") + self.label


@dataclass(frozen=True)
class Group:
    """Evaluations that may stand in one table: the same protocol with the same settings, the same data set and split."""

    name: str
    """The evaluation's; empty for a table of several protocols, whose lines are never compared with each other."""
    dataset: str
    split: str
    members: tuple[Evaluated, ...]

    @property
    def title(self) -> str:
        """`table3 on cifar10, test split`; where radii are no shares of the pixel range, it says so wherever the table goes."""
        space = ", radii in standardised space" if any(member.standardised for member in self.members) else ""
        return f"{self.name or 'Worst case by protocol'} on {self.dataset}, {self.split} split{space}"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The table's columns, in the paper's order."""
        found: dict[str, Column] = {}
        for member in self.members:
            for column in _columns(member):
                found.setdefault(column.key, column)
        ordered = sorted(found.values(), key=_place)
        labels = [column.heading for column in ordered]
        return tuple(  # rows of one family at several radii would share a label: their own names tell them apart
            Column(c.key, "other", c.key, c.note) if labels.count(c.heading) > 1 else c for c in ordered
        )

    @property
    def pgd_radius(self) -> str:
        """The radius of the PGD columns, in both units."""
        members = [member for member in self.members if member.protocol == PAPER]
        entries = [entry for member in members for entry in member.result.attacks if family(entry) == "pgd"]
        return listed([radius(norm, eps) for norm, eps in sorted({(entry.norm, entry.eps) for entry in entries})])

    @property
    def counts(self) -> tuple[int, ...]:
        """How many images the members were evaluated on."""
        return tuple(sorted({member.result.dataset.n for member in self.members}))

    @property
    def same_images(self) -> bool:
        """Whether all members saw the same images; otherwise their difference may be the images' difference."""
        entries = [member.result.dataset for member in self.members]
        return len({(entry.sha256, entry.n, entry.indices) for entry in entries}) == 1


def groups(evaluated: Iterable[Evaluated]) -> list[Group]:
    """The tables of a report, in the order in which they first appear."""
    found: dict[tuple[str, str, str], list[Evaluated]] = {}
    for one in evaluated:
        found.setdefault((one.name, one.result.dataset.name, one.result.dataset.split), []).append(one)
    return [Group(*key, members=tuple(members)) for key, members in found.items()]


def papers(evaluated: Iterable[Evaluated]) -> list[Group]:
    """The tables in the paper's layout."""
    return groups(one for one in evaluated if one.protocol == PAPER)


def others(evaluated: Iterable[Evaluated]) -> list[Group]:
    """One table for each data set and split, with a line for each evaluation by another protocol."""
    found: dict[tuple[str, str], list[Evaluated]] = {}
    for one in evaluated:
        if one.protocol != PAPER:
            found.setdefault((one.result.dataset.name, one.result.dataset.split), []).append(one)
    return [Group("", *key, members=tuple(members)) for key, members in found.items()]


def base(entry: AttackEntry) -> str:
    """The row's name without the mark of the worst iterate."""
    return entry.name.removesuffix(_WORST_SUFFIX) if entry.iterate == "worst" else entry.name


def family(entry: AttackEntry) -> Family:
    """Which columns a row belongs to."""
    kind, _, rest = base(entry).partition("-")
    if kind == "fgsm":
        return "fgsm" if rest else "own"
    if kind != "pgd":
        return "other"
    if "eot" in rest:
        return "eot"
    return "restarts" if entry.restarts > 1 else "pgd"


def cell(one: Evaluated, column: Column, iterate: str = "last") -> Cell | None:
    """The number of a run in a column; None where it was not measured."""
    if column.family == "clean":
        return Cell(one.result.clean.accuracy, *one.result.clean.ci95, one.result.clean.n) if iterate == "last" else None
    if column.family == "worst":
        matching = (case for case in worst_cases(one) if iterate == "last" and _worst_key(case) == column.key)
        return next((Cell(case.accuracy, *case.ci95, one.result.dataset.n) for case in matching), None)
    for entry in one.result.attacks:
        if base(entry) == column.key and entry.iterate == iterate:
            return Cell(entry.accuracy, *entry.ci95, entry.n)
    return None


def best(group: Group, column: Column) -> float | None:
    """The highest accuracy as it is printed, in hundredths of a percent; None where no two runs have it on the same images."""
    if not group.name or not group.same_images:
        return None
    found = [c.accuracy for member in group.members if (c := cell(member, column))]
    return round(1e4 * max(found)) if len(found) > 1 else None


def is_best(group: Group, column: Column, found: Cell | None) -> bool:
    """Whether a cell is printed in bold."""
    return found is not None and round(1e4 * found.accuracy) == best(group, column)


def repeated(group: Group) -> list[tuple[str, Sequence[Evaluated]]]:
    """Runs that differ in nothing but the seed, with a name for their mean: `dwf, 5 seeds`; several of a method have their own.

    Means are over the same images and over seeds: where a run lies there twice, nobody can say which to take.
    """
    found: dict[str, list[Evaluated]] = {}
    for member in group.members if group.name else ():
        settings = {k: v for k, v in member.record["settings"].items() if k not in ("seed", "name", "out")}
        data = member.result.dataset
        alike = {"settings": settings, "images": (data.sha256, data.n, data.indices)}
        found.setdefault(json.dumps(alike, sort_keys=True, default=str), []).append(member)
    families = [members for members in found.values() if len({m.record["seed"] for m in members}) == len(members) > 1]
    methods = [members[0].method for members in families]
    return [
        (f"{method if methods.count(method) == 1 else members[0].base}, {len(members)} seeds", members)
        for method, members in zip(methods, families, strict=True)
    ]


def worst_cases(one: Evaluated) -> Sequence[WorstCase]:
    """Those to quote: the headline, and all of `standard`. Other protocols attack at further radii for their alarms alone."""
    return one.result.worst_case if one.protocol == "standard" else one.result.worst_case[:1]


def _columns(one: Evaluated) -> list[Column]:
    entries = [entry for entry in one.result.attacks if entry.iterate == "last" and one.protocol == PAPER]
    entries.sort(key=lambda entry: (entry.eps, entry.steps) if family(entry) in ("fgsm", "pgd") else (0.0, 0))
    worst = sorted(worst_cases(one), key=lambda case: (case.norm != "linf", case.eps))
    heads = [Column(_worst_key(case), "worst", "Worst case", short_threat(case.norm, case.eps, case.space)) for case in worst]
    return [Column("SA", "clean", "SA", "clean"), *map(_column, entries), *heads]


def _column(entry: AttackEntry) -> Column:
    match family(entry):
        case "fgsm":
            return Column(entry.name, "fgsm", decimal(entry.eps).removeprefix("0"), of_255(entry.eps))
        case "pgd":
            return Column(entry.name, "pgd", str(entry.steps), radius(entry.norm, entry.eps))
        case "restarts":
            return Column(entry.name, "restarts", "MS", f"PGD-{entry.steps} x {entry.restarts}")
        case "eot":
            draws = entry.name.rpartition("eot")[2]
            return Column(entry.name, "eot", "A", f"PGD-{entry.steps} EoT {draws}".rstrip())
        case "own":
            return Column(entry.name, "own", "FGSM", of_255(entry.eps))
        case _:
            return Column(entry.name, "other", entry.name, radius(entry.norm, entry.eps))


def _place(column: Column) -> tuple[int, bool, str]:
    """By family; of the worst cases Linf first, and ascending radii."""
    worst = column.family == "worst"
    return ORDER.index(column.family), worst and " linf " not in column.key, column.key if worst else ""


def _worst_key(case: WorstCase) -> str:
    return f"worst_case {case.norm} {case.eps:.6f}"
