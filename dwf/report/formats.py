"""The paper's table as Markdown, CSV, LaTeX and rows for a terminal; the page has its own in `table`."""

from __future__ import annotations

import csv as writer
import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace

from dwf.core.result import Result
from dwf.report.layout import Column, Group, cell, groups, is_best, repeated
from dwf.report.reading import Evaluated
from dwf.report.wording import ABSENT, count, interval, listed, percent, plural, short_threat

READING = (
    "Accuracies in percent on n images; bold is the highest of a column. "
    "Where 95 % intervals overlap, the higher number is not a win. "
    "MS is PGD with restarts, A is PGD with expectation over transformations; both are the paper's names."
)
"""How to read the table, in the words that every format shares."""

_TERMINAL = (("fgsm", (".01", ".03", ".05", ".09")), ("pgd", ("10", "50")))


def markdown(evaluated: Sequence[Evaluated]) -> str:
    """One Markdown table a group."""
    return "\n\n".join(_markdown(group) for group in groups(evaluated)) + f"\n\n{READING}\n"


def csv(evaluated: Sequence[Evaluated]) -> str:
    """One line a run and iterate, over all groups; each number is followed by the bounds of its interval."""
    columns = {c.key: c for group in groups(evaluated) for c in group.columns if c.family != "worst"}
    names = [name for key in (*columns, "worst_case") for name in (key, f"{key}_lo", f"{key}_hi")]
    text = io.StringIO()
    out = writer.writer(text, lineterminator="\n")
    out.writerow([*_FACTS, *names])
    for group in groups(evaluated):
        for one in group.members:
            for iterate in ("last", "worst"):
                cells = [cell(one, column, iterate) for column in columns.values()]
                if iterate == "last" or any(cells):
                    head = one.headline if iterate == "last" else None
                    numbers = [v for c in cells for v in ((c.accuracy, c.low, c.high) if c else (None,) * 3)]
                    numbers += [head.accuracy, *head.ci95] if head else [None] * 3
                    out.writerow([*_facts(one, group, iterate), *("" if v is None else percent(v) for v in numbers)])
    return text.getvalue()


def latex(evaluated: Sequence[Evaluated]) -> str:
    """One `table*` a group, for the package booktabs."""
    return "% needs \\usepackage{booktabs}\n" + "\n".join(_latex(group) for group in groups(evaluated))


def terminal(evaluated: Sequence[Evaluated]) -> list[list[str]]:
    """A header and one row of strings an evaluation, narrow enough for a terminal; columns that nobody measured are left out."""
    rows = [_terminal(one, group) for group in groups(evaluated) for one in group.members]
    keys = list(rows[0]) if rows else []
    used = [key for key in keys if any(row[key] != ABSENT for row in rows)]
    return [used, *([row[key] for key in used] for row in rows)]


def alarms(result: Result) -> str:
    """`none`, or how many alarms of which class: `2 trust, 1 worth`."""
    counts = {kind: sum(flag.class_ == kind for flag in result.flags) for kind in ("trust", "worth")}
    return ", ".join(f"{number} {kind}" for kind, number in counts.items() if number) or "none"


def spread(members: Sequence[Evaluated], column: Column) -> str:
    """Mean and sample standard deviation over seeds, in percent: `91.19 ± 0.43`."""
    values = [100 * c.accuracy for member in members if (c := cell(member, column))]
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else ABSENT


_FACTS = (
    *("run", "method", "evaluation", "protocol", "dataset", "split", "n", "seed", "iterate"),
    *("pgd_radius", "worst_case_threat", "trust_flags", "worth_flags"),
)


def _facts(one: Evaluated, group: Group, iterate: str) -> list[object]:
    result, head = one.result, one.headline
    flags = [sum(flag.class_ == kind for flag in result.flags) for kind in ("trust", "worth")]
    texts = [one.run, one.method, one.name, result.protocol.name, group.dataset, group.split]
    threat = short_threat(head.norm, head.eps) if head else ""
    inert = [f"'{text}" if text[:1] in ("=", "+", "-", "@") else text for text in texts]  # a spreadsheet would run it
    return [*inert, result.dataset.n, one.record["seed"], iterate, replace(group, members=(one,)).pgd_radius, threat, *flags]


def _markdown(group: Group) -> str:
    rows = [["Run", "n", *(column.heading for column in group.columns), "Alarms"]]
    for one in group.members:
        found = [(column, cell(one, column)) for column in group.columns]
        numbers = [f"**{percent(c.accuracy)}**" if c and is_best(group, col, c) else _number(c) for col, c in found]
        if head := one.headline:
            numbers[-1] += f" ({interval(head.ci95)})" if found[-1][1] else ""
        rows.append([f"{_inert(one.run)} ({_inert(one.method)})", count(one.result.dataset.n), *numbers, alarms(one.result)])
    for label, members in repeated(group):
        rows.append([_inert(label), "", *(spread(members, column) for column in group.columns), ""])
    rows[0] = [_inert(text) for text in rows[0]]
    rule = ["---", *["---:"] * (len(rows[0]) - 2), "---"]
    lines = ["| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:])]
    radius = f"PGD at Linf {group.pgd_radius}." if group.pgd_radius else ""
    return "\n".join([f"### {_inert(group.title)}", "", f"{_images(group)} {radius}".strip(), "", *lines])


def _latex(group: Group) -> str:
    columns = group.columns
    lines = [
        "\\begin{table*}\\centering\\scriptsize\\setlength{\\tabcolsep}{2.5pt}",
        f"\\begin{{tabular}}{{l{'r' * len(columns)}l}}",
        "\\toprule",
        " & ".join(["Run", *(_tex(column.heading) for column in columns), "Alarms"]) + " \\\\",
        "\\midrule",
    ]
    for one in group.members:
        found = [(column, cell(one, column)) for column in columns]
        numbers = [f"\\textbf{{{percent(c.accuracy)}}}" if c and is_best(group, col, c) else _number(c) for col, c in found]
        lines.append(" & ".join([_tex(f"{one.run} ({one.method})"), *map(_tex_dash, numbers), alarms(one.result)]) + " \\\\")
    for label, members in repeated(group):
        numbers = [spread(members, column).replace("±", "$\\pm$") for column in columns]
        lines.append(" & ".join([_tex(label), *map(_tex_dash, numbers), ""]) + " \\\\")
    radius = f" PGD at Linf {group.pgd_radius}." if group.pgd_radius else ""
    caption = _tex(f"{group.title}. {_images(group)}{radius} {READING}")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table*}", ""])


def _terminal(one: Evaluated, group: Group) -> dict[str, str]:
    row = {"Run": one.run, "Evaluation": f"{one.name}, {group.dataset}", "n": count(one.result.dataset.n), "SA": ABSENT}
    for family, labels in _TERMINAL:
        row |= {f"{family.upper()} {label}": ABSENT for label in labels}
    row |= {"MS": ABSENT, "Worst case": ABSENT, "Alarms": alarms(one.result)}
    for column in group.columns:
        if column.heading in row:
            row[column.heading] = _number(cell(one, column))
    if head := one.headline:
        row["Worst case"] = f"{percent(head.accuracy)} ({short_threat(head.norm, head.eps)})"
    return row


def _number(found: object) -> str:
    return percent(found[0]) if isinstance(found, tuple) else ABSENT


def _images(group: Group) -> str:
    return (
        f"n = {plural(group.counts[0], 'image')}."
        if len(group.counts) == 1
        else f"n = {listed(list(map(count, group.counts)))} images."
    )


def _inert(text: str) -> str:
    """Text that Markdown and the HTML it allows leave alone."""
    return re.sub(r"([\\`*_\[\]|<>#])", r"\\\1", " ".join(text.split()))


_TEX = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
_TEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text).replace("<", "$<$").replace(">", "$>$")


def _tex_dash(text: str) -> str:
    return "--" if text == ABSENT else text
