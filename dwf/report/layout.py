"""The paper's table: one line a run, SA | FGSM by radius | PGD by steps | MS | A, and what we add to it.

MS is the paper's PGD-100 with three restarts, A its PGD-100 with expectation over one draw. We add FGSM at PGD's own radius, which
shows at once whether FGSM beats PGD, and the worst case over everything that was run. Columns are made from the fields of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dwf.core.result import AttackEntry
from dwf.report.reading import Evaluated
from dwf.report.wording import decimal, listed, of_255, radius, short_threat

Family = Literal["clean", "fgsm", "pgd", "restarts", "eot", "own", "other", "worst"]
ORDER: tuple[Family, ...] = ("clean", "fgsm", "pgd", "restarts", "eot", "own", "other", "worst")
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
    dataset: str
    split: str
    members: tuple[Evaluated, ...]

    @property
    def title(self) -> str:
        """`table3 on cifar10, test split`."""
        return f"{self.name} on {self.dataset}, {self.split} split"

    @property
    def columns(self) -> tuple[Column, ...]:
        """The table's columns, in the paper's order."""
        found: dict[str, Column] = {}
        for member in self.members:
            for column in _columns(member):
                found.setdefault(column.key, column)
        ordered = sorted(found.values(), key=lambda column: ORDER.index(column.family))
        labels = [column.heading for column in ordered]
        return tuple(  # rows of one family at several radii would share a label: their own names tell them apart
            Column(c.key, "other", c.key, c.note) if labels.count(c.heading) > 1 else c for c in ordered
        )

    @property
    def pgd_radius(self) -> str:
        """The radius of the PGD columns, in both units."""
        entries = [entry for member in self.members for entry in member.result.attacks if family(entry) == "pgd"]
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
        head = one.headline
        matches = iterate == "last" and head is not None and _worst_key(head.norm, head.eps) == column.key
        return Cell(head.accuracy, *head.ci95, one.result.dataset.n) if matches and head else None
    for entry in one.result.attacks:
        if base(entry) == column.key and entry.iterate == iterate:
            return Cell(entry.accuracy, *entry.ci95, entry.n)
    return None


def best(group: Group, column: Column) -> float | None:
    """The highest accuracy as it is printed, in hundredths of a percent; None where fewer than two runs have the number."""
    found = [c.accuracy for member in group.members if (c := cell(member, column))]
    return round(1e4 * max(found)) if len(found) > 1 else None


def is_best(group: Group, column: Column, found: Cell | None) -> bool:
    """Whether a cell is printed in bold."""
    return found is not None and round(1e4 * found.accuracy) == best(group, column)


def repeated(group: Group) -> list[tuple[str, Sequence[Evaluated]]]:
    """Runs that differ in nothing but the seed, with a name for their mean: `dwf, 5 seeds`."""
    found: dict[str, list[Evaluated]] = {}
    for member in group.members:
        settings = {k: v for k, v in member.record["settings"].items() if k not in ("seed", "name", "out")}
        found.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(member)
    families = [members for members in found.values() if len({m.record["seed"] for m in members}) > 1]
    return [(f"{members[0].method}, {len(members)} seeds", members) for members in families]


def _columns(one: Evaluated) -> list[Column]:
    entries = [entry for entry in one.result.attacks if entry.iterate == "last"]
    entries.sort(key=lambda entry: (entry.eps, entry.steps) if family(entry) in ("fgsm", "pgd") else (0.0, 0))
    columns = [Column("SA", "clean", "SA", "clean"), *map(_column, entries)]
    if head := one.headline:
        columns.append(Column(_worst_key(head.norm, head.eps), "worst", "Worst case", short_threat(head.norm, head.eps)))
    return columns


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


def _worst_key(norm: str, eps: float) -> str:
    return f"worst_case {norm} {eps:.6f}"
