"""Who is better, image by image: the comparison as a section of the page, as rows for a terminal, as CSV and as JSON.

Differences are B minus A in points of accuracy, where A is the baseline, the first run named.
"""

from __future__ import annotations

import csv as writer
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dwf.core.files import write_json, written
from dwf.core.wording import ABSENT, count, listed, percent, plural
from dwf.report.duels import Comparison, Duel, Line, Side, comparisons, without_bits
from dwf.report.markup import joined, table, tag
from dwf.report.matching import Row
from dwf.report.reading import Evaluated
from dwf.report.rows import cumulative

_HEADER = ("A, %", "B, %", "B - A", "95 % interval", "p", "Holm p", "B is")


def comparison(evaluated: Sequence[Evaluated]) -> str | None:
    """One block for each evaluation that several runs share on the same images; None for a single run or nothing in common."""
    blocks = [_block(one) for one in comparisons(evaluated)]
    if bare := [f"{one.run} ({one.name})" for one in without_bits(evaluated)]:
        said = f"Without per-image bits beside the result nothing can be paired: {listed(bare)}. Evaluate again to have them."
        blocks.append(tag("p", said, class_="small"))
    return joined(blocks) or None


def versus(duel: Duel) -> list[list[str]]:
    """A header and one row of strings a line, for a terminal; an empty row before each new kind. Untested columns are left out."""
    kept = [i for i in range(len(_HEADER)) if any(line.paired for line in duel.lines) or i < 3]
    rows = [["Row", *(_HEADER[i] for i in kept)]]
    kind = "clean"
    for line in duel.lines:
        if line.row.kind != kind:
            rows.append([""] * (len(kept) + 1))
            kind = line.row.kind
        cells = _cells(line)
        rows.append([line.row.name, *(cells[i] for i in kept)])
    return rows


def caveats(one: Comparison) -> list[str]:
    """What a reader must know to read the numbers, one thought a line."""
    said = []
    if any(line.row.kind == "worst_case" for line in one.duels[0].lines):
        said.append(
            "A row called worst counts an image only if it is right as it is and under every attack of that norm "
            "within that radius; a row that ends in -worst, only if no iterate of its attack broke it."
        )
    first = one.a.seeds[0].one
    if any(cumulative(first, entry) for entry in first.result.attacks):
        said.append("A row that attacks survivors only is compared by what is left after it and everything that it follows.")
    if one.tests:
        said.append(
            "B - A is in points of accuracy, its 95 % interval that of paired shares (Newcombe 1998, method 10). B is even where "
            "the interval holds 0, row by row; p is McNemar's exact test, as a rule the more cautious of the two. "
            "Both speak of the choice of images and not of the luck of training: that takes several seeds."
        )
        said.append(
            f"{count(one.tests)} rows are {count(one.tests)} tests: were nobody better, up to about {0.05 * one.tests:.0f} of them "
            "could still have p below .05. Holm p counts them all: below .05 a row stands even among so many."
        )
    if folded := [who.name for who in one.contestants if len(who.seeds) > 1]:
        said.append(
            f"Mean ± sample standard deviation over seeds: {listed(folded)}. Across seeds nothing is tested; "
            "to pair image by image, name one run of each."
        )
    for who in one.contestants:
        for seed in who.seeds:
            if codes := [flag.code for flag in seed.one.result.flags if flag.class_ == "trust"]:
                said.append(f"{seed.one.run} raises {listed(codes)}: its accuracies under attack may be too high.")
    precisions = {seed.one.run: seed.one.result.environment.precision for who in one.contestants for seed in who.seeds}
    if len(set(precisions.values())) > 1:
        made = listed([f"{run} in {precision}" for run, precision in precisions.items()])
        said.append(f"The attacks were made in different precision: {made}.")
    if len({seed.one.result.environment.code for who in one.contestants for seed in who.seeds}) > 1:
        said.append("The attacks are not of the same code of dwf: before small differences count, evaluate all runs by one.")
    if one.result.dataset.split != "test":
        said.append(f"Measured on the {one.result.dataset.split} split: it serves to choose, not to claim.")
    return said


def sentence(one: Comparison) -> str:
    """The headline, all rivals in one sentence."""
    row = one.duels[0].headline.row
    where = _worst_case(row) if row.kind == "worst_case" else "Clean images (no worst case measured)"
    heads = [(duel.b.name, duel.headline) for duel in one.duels]
    a = f"{where}, {plural(one.result.dataset.n, 'image')}, against {one.a.name} with {_share(heads[0][1].a)} %"
    return f"{a}: {'; '.join(_said(name, line, one.tests) for name, line in heads)}."


def title(one: Comparison) -> str:
    """`table3 on cifar10, test split, 1,000 images`."""
    data = one.result.dataset
    return f"{one.name} on {data.name}, {data.split} split, {plural(data.n, 'image')}"


def store(one: Comparison, csv_file: Path | None, json_file: Path | None) -> list[Path]:
    """Write the files that are asked for, and return them; raises `Refused` for a place that cannot be written."""
    if csv_file is not None:
        with written(csv_file) as beside:
            beside.write_text(csv(one), encoding="utf-8")
    if json_file is not None:
        write_json(json_file, as_json(one))
    return [file for file in (csv_file, json_file) if file is not None]


def csv(one: Comparison) -> str:
    """One line a row and rival; accuracies in percent, differences in points, p as a fraction."""
    text = io.StringIO()
    out = writer.DictWriter(text, fieldnames=list(_COLUMNS), lineterminator="\n")
    out.writeheader()
    for duel in one.duels:
        for line in duel.lines:
            found = {
                "evaluation": one.name,
                "a": one.a.name,
                "b": duel.b.name,
                "n": one.result.dataset.n,
                **_numbers(one, duel, line),
            }
            out.writerow({key: _plain(found[key], share=share) for key, share in _COLUMNS.items()})
    return text.getvalue()


def as_json(one: Comparison) -> dict[str, Any]:
    """Everything, accuracies and differences as fractions."""
    result = one.result
    return {
        "schema": 1,
        "evaluation": one.name,
        "protocol": result.protocol.model_dump(mode="json"),
        "dataset": result.dataset.model_dump(mode="json"),
        "interval": "95 %, Newcombe 1998, method 10, paired",
        "p": "McNemar, exact, two-sided",
        "tests": one.tests,
        "runs": [
            {
                "name": who.name,
                "folders": [str(s.one.folder) for s in who.seeds],
                "seeds": [s.one.record["seed"] for s in who.seeds],
            }
            for who in one.contestants
        ],
        "duels": [
            {"a": one.a.name, "b": duel.b.name, "rows": [_numbers(one, duel, line) for line in duel.lines]} for duel in one.duels
        ],
        "reading": caveats(one),
        "headline": sentence(one),
    }


_COLUMNS = {
    **dict.fromkeys(("evaluation", "a", "b", "row", "kind", "norm", "eps", "n", "seeds_a", "seeds_b"), False),
    **dict.fromkeys(("accuracy_a", "deviation_a", "accuracy_b", "deviation_b", "difference", "low", "high"), True),
    **dict.fromkeys(("only_a", "only_b", "p", "p_holm", "b_is"), False),
}
"""Of the CSV, and whether it is a share to be written in percent."""


def _numbers(one: Comparison, duel: Duel, line: Line) -> dict[str, Any]:
    test = line.paired
    return {
        "row": line.row.name,
        "kind": line.row.kind,
        "norm": line.row.norm or None,
        "eps": line.row.eps,
        "seeds_a": len(one.a.seeds),
        "seeds_b": len(duel.b.seeds),
        "accuracy_a": line.a.accuracy,
        "deviation_a": line.a.deviation,
        "accuracy_b": line.b.accuracy,
        "deviation_b": line.b.deviation,
        "difference": line.difference,
        "low": test.low if test else None,
        "high": test.high if test else None,
        "only_a": test.only_a if test else None,
        "only_b": test.only_b if test else None,
        "p": test.p if test else None,
        "p_holm": line.holm,
        "b_is": line.verdict,
    }


def _plain(value: object, *, share: bool) -> object:
    if value is None:
        return ""
    if share and isinstance(value, float):
        return percent(value)
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value  # a spreadsheet would run it


def _worst_case(row: Row) -> str:
    return f"Worst case at {row.name.removeprefix('worst ')}"


def _block(one: Comparison) -> Markup:
    row = one.duels[0].headline.row
    heads = [(duel.b.name, *_cells(duel.headline)) for duel in one.duels]
    clean = [(duel.b.name, *_cells(duel.lines[0])) for duel in one.duels]
    parts = [tag("h3", f"{title(one)}, against {one.a.name}"), tag("p", sentence(one))]
    if row.kind == "worst_case":
        caption = f"{_worst_case(row)}, {one.name}, A is {one.a.name}"
        parts.append(table(caption, ("B", *_HEADER), heads))
    parts.append(table(f"Clean images, {one.name}, A is {one.a.name}", ("B", *_HEADER), clean))
    for duel in one.duels:
        summary = tag("summary", f"{duel.b.name}: {plural(len(duel.lines), 'row')}")
        rows = [(line.row.name, *_cells(line)) for line in duel.lines]
        caption = f"A is {one.a.name}, B is {duel.b.name}; {title(one)}"
        parts.append(tag("details", summary, table(caption, ("Row", *_HEADER), rows)))
    parts += [tag("p", thought, class_="small") for thought in caveats(one)]
    return tag("section", *parts, class_="run")


def _cells(line: Line) -> list[str]:
    test = line.paired
    tested = [f"{_points(test.low)} to {_points(test.high)}", _p(test.p)] if test else [ABSENT, ABSENT]
    adjusted = ABSENT if line.holm is None else _p(line.holm)
    return [_share(line.a), _share(line.b), _points(line.difference), *tested, adjusted, line.verdict]


def _said(name: str, line: Line, tests: int) -> str:
    fares = f"{name} has {_share(line.b)} %, {_points(line.difference)} points"
    if line.paired is None or line.holm is None:
        return f"{fares} between the means, not tested"
    test = line.paired
    among = f" by itself, undecided among all {count(tests)} tests" if line.verdict != "even" and line.holm >= 0.05 else ""
    bounds = f"95 % interval {_points(test.low)} to {_points(test.high)}"
    return f"{fares} ({bounds}; p {_p(test.p)}, Holm p {_p(line.holm)}): {line.verdict}{among}"


def _share(side: Side) -> str:
    return percent(side.accuracy) + ("" if side.deviation is None else f" ± {percent(side.deviation)}")


def _points(difference: float) -> str:
    return f"{round(100 * difference, 2) + 0.0:+.2f}"  # never -0.00


def _p(p: float) -> str:
    return "<.0001" if p < 1e-4 else f"{p:.4f}"
