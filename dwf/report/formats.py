"""The results as Markdown, LaTeX and rows for a terminal; the page has its own in `table`, spreadsheets in `spreadsheet`."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from dwf.core.wording import ABSENT, count, interval, listed, percent, plural, short_threat
from dwf.report.coverage import asked
from dwf.report.layout import Column, Group, cell, is_best, others, papers, repeated
from dwf.report.overview import COLUMNS, MARK, NOT_RUN, Entry, Overview, overviews
from dwf.report.reading import Evaluated

READING = (
    "Accuracies in percent on n images; bold is the highest of a column. "
    "Where 95 % intervals overlap, the higher number is not a win. "
    "MS is PGD with restarts, A is PGD with expectation over transformations; both are the paper's names. "
    "Alarms: those raised, or of how many that this protocol asks none was."
)
"""How to read the table, in the words that every format shares."""

OTHERS = (
    "A worst case counts an image only if every attack of its norm within its radius failed on it. Protocols differ in what they "
    "try: the lower number of two on the same images is the one to believe. Alarms: those raised, or of how many that a protocol "
    "asks none was."
)
"""How to read the table of the other protocols."""

_TERMINAL = (("fgsm", (".01", ".03", ".05", ".09")), ("pgd", ("10", "50")))


def markdown(evaluated: Sequence[Evaluated]) -> str:
    """The overview, then one Markdown table a group."""
    parts = [*map(_markdown_overview, overviews(evaluated)), *map(_markdown, papers(evaluated))]
    parts += [READING] if papers(evaluated) else []
    rest = others(evaluated)
    return "\n\n".join([*parts, *map(_markdown, rest), *([OTHERS] if rest else [])]) + "\n"


def latex(evaluated: Sequence[Evaluated]) -> str:
    """One `table*` for the overview and one a group, for the package booktabs."""
    tables = [*map(_latex_overview, overviews(evaluated)), *map(_latex, [*papers(evaluated), *others(evaluated)])]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(tables)


def terminal(evaluated: Sequence[Evaluated]) -> list[list[list[str]]]:
    """Tables of strings, a header and one row each, narrow enough for a terminal; columns that nobody measured are left out.

    The overview where there are several protocols, the paper's table, and the worst cases of the other protocols.
    """
    several = len({one.protocol for one in evaluated}) > 1
    tables = [_terminal_overview(one) for one in overviews(evaluated) if several]
    paper = [_terminal(one, group) for group in papers(evaluated) for one in group.members]
    tables += [_measured(paper)] if paper else []
    return tables + [_measured([_terminal_other(one, group) for one in group.members]) for group in others(evaluated)]


def alarms(one: Evaluated) -> str:
    """How many alarms of which class, `2 trust, 1 worth`; or of how many that were asked none was raised, `none of 4`."""
    flags = one.result.flags
    counts = {kind: sum(flag.class_ == kind for flag in flags) for kind in ("trust", "worth")}
    return ", ".join(f"{number} {kind}" for kind, number in counts.items() if number) or f"none of {len(asked(one))}"


def spread(members: Sequence[Evaluated], column: Column) -> str:
    """Mean and sample standard deviation over seeds, in percent: `91.19 ± 0.43`."""
    values = [100 * c.accuracy for member in members if (c := cell(member, column))]
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else ABSENT


def _markdown(group: Group) -> str:
    rows = [["Run", "n", *(column.heading for column in group.columns), "Alarms"]]
    for one in group.members:
        found = [(column, cell(one, column)) for column in group.columns]
        numbers = [f"**{percent(c.accuracy)}**" if c and is_best(group, col, c) else _number(c) for col, c in found]
        bounds = [f" ({interval((c.low, c.high))})" if c and column.family == "worst" else "" for column, c in found]
        numbers = [f"{number}{spread_}" for number, spread_ in zip(numbers, bounds, strict=True)]
        rows.append([f"{_inert(one.run)} ({_inert(_kind(one, group))})", count(one.result.dataset.n), *numbers, alarms(one)])
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
        f"\\begin{{tabular}}{{l{'r' * (len(columns) + (not group.name))}l}}",
        "\\toprule",
        " & ".join(["Run", *([] if group.name else ["n"]), *(_tex(column.heading) for column in columns), "Alarms"]) + " \\\\",
        "\\midrule",
    ]
    for one in group.members:
        found = [(column, cell(one, column)) for column in columns]
        numbers = [f"\\textbf{{{percent(c.accuracy)}}}" if c and is_best(group, col, c) else _number(c) for col, c in found]
        images = [] if group.name else [count(one.result.dataset.n)]
        cells = [_tex(f"{one.run} ({_kind(one, group)})"), *images, *map(_tex_dash, numbers), alarms(one)]
        lines.append(" & ".join(cells) + " \\\\")
    for label, members in repeated(group):
        numbers = [spread(members, column).replace("±", "$\\pm$") for column in columns]
        lines.append(" & ".join([_tex(label), *map(_tex_dash, numbers), ""]) + " \\\\")
    radius = f" PGD at Linf {group.pgd_radius}." if group.pgd_radius else ""
    caption = _tex(f"{group.title}. {_images(group)}{radius} {READING if group.name else OTHERS}")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table*}", ""])


def _terminal(one: Evaluated, group: Group) -> dict[str, str]:
    row = {"Run": one.run, "Evaluation": f"{one.name}, {group.dataset}", "n": count(one.result.dataset.n), "SA": ABSENT}
    for family, labels in _TERMINAL:
        row |= {f"{family.upper()} {label}": ABSENT for label in labels}
    row |= {"MS": ABSENT, "Worst case": ABSENT, "Alarms": alarms(one)}
    for column in group.columns:
        if column.heading in row:
            row[column.heading] = _number(cell(one, column))
    if head := one.headline:
        row["Worst case"] = f"{percent(head.accuracy)} ({short_threat(head.norm, head.eps, head.space)})"
    return row


def _terminal_other(one: Evaluated, group: Group) -> dict[str, str]:
    row = {"Run": one.run, "Evaluation": f"{one.name}, {group.dataset}", "n": count(one.result.dataset.n)}
    row |= {column.heading: _number(cell(one, column)) for column in group.columns}
    return row | {"Alarms": alarms(one)}


def _measured(rows: Sequence[dict[str, str]]) -> list[list[str]]:
    used = [key for key in rows[0] if any(row[key] != ABSENT for row in rows)]
    return [used, *([row[key] for key in used] for row in rows)]


def _terminal_overview(one: Overview) -> list[list[str]]:
    rows = [[line.run, *(_entry(entry, short=True) for entry in line.entries), line.alarms] for line in one.lines]
    return [[f"{one.dataset}, {short_threat(*one.threat)}", *COLUMNS, "Alarms"], *rows]


def _markdown_overview(one: Overview) -> str:
    rows = [["Run", *COLUMNS, "Alarms"], ["---", *["---:"] * len(COLUMNS), "---"]]
    for line in one.lines:
        cells = [_inert(_entry(entry)) for entry in line.entries]
        rows.append([f"{_inert(line.run)} ({_inert(line.method)})", *cells, line.alarms])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([f"### {_inert(one.title)}", "", *lines, "", _inert(" ".join(one.remarks))]).rstrip()


def _latex_overview(one: Overview) -> str:
    head = " & ".join(["Run", *map(_tex, COLUMNS), "Alarms"]) + " \\\\"
    rows = [
        " & ".join([_tex(f"{line.run} ({line.method})"), *(_tex(_entry(entry)) for entry in line.entries), line.alarms]) + " \\\\"
        for line in one.lines
    ]
    caption = _tex(" ".join([f"{one.title}: accuracy in percent, 95 % interval, number of images.", *one.remarks]))
    return "\n".join(
        [
            "\\begin{table*}\\centering\\scriptsize\\setlength{\\tabcolsep}{3pt}",
            f"\\begin{{tabular}}{{l{'r' * len(COLUMNS)}l}}",
            *("\\toprule", head, "\\midrule", *rows, "\\bottomrule", "\\end{tabular}"),
            *(f"\\caption{{{caption}}}", "\\end{table*}", ""),
        ]
    )


def _entry(found: Entry | None, *, short: bool = False) -> str:
    """`51.20 (49.01 to 53.39), n = 2,000`; short, without the interval and on two lines."""
    if found is None:
        return NOT_RUN
    number = percent(found.score.accuracy) + (MARK if found.changed else "")
    between = "\n" if short else f" ({interval(found.score.ci95)}), "
    return f"{number}{between}n = {count(found.score.n)}"


def _kind(one: Evaluated, group: Group) -> str:
    """What a line is besides its run: the method; among several protocols, the evaluation."""
    return one.method if group.name else one.name


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
