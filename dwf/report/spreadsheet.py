"""The results for a spreadsheet: every number on a line of its own, and the overview with a line a run.

Accuracies and the bounds of their intervals are in percent, radii are shares of the pixel range.
"""

from __future__ import annotations

import csv as writer
import io
from collections.abc import Iterable, Iterator, Sequence

from dwf.core.result import AttackEntry, Score
from dwf.core.wording import percent, short_threat
from dwf.report.layout import base, worst_cases
from dwf.report.overview import Overview, overviews
from dwf.report.reading import Evaluated
from dwf.report.rows import cumulative, sees, targets

_WHERE = ("run", "method", "seed", "dataset", "split", "evaluation", "protocol", "trust_flags", "worth_flags")
_ROW = ("row", "iterate", "kind", "norm", "eps", "space", "steps", "restarts", "sees", "on", "cumulative")
_SCORE = ("accuracy", "low", "high", "n")
_OVERVIEW = ("sa", "pgd_100x3", "autoattack", "full")


def csv(evaluated: Sequence[Evaluated]) -> str:
    """One line a number: clean, every row of every evaluation, and the worst cases; empty where a column says nothing of a line."""
    return _written((*_WHERE, *_ROW, *_SCORE), (line for one in evaluated for line in _lines(one)))


def overview_csv(evaluated: Sequence[Evaluated]) -> str:
    """One line a run: SA, PGD-100x3, AutoAttack, worst case of `full`, with interval, n and evaluation; empty where not run."""
    columns = [f"{name}_{key}" if key else name for name in _OVERVIEW for key in ("", "low", "high", "n", "by")]
    header = ("run", "method", "dataset", "split", "threat", *columns, "alarms")
    return _written(header, (line for one in overviews(evaluated) for line in _overview(one)))


def _lines(one: Evaluated) -> Iterator[list[object]]:
    result = one.result
    flags = [sum(flag.class_ == kind for flag in result.flags) for kind in ("trust", "worth")]
    data = result.dataset
    where = [one.run, one.method, one.record["seed"], data.name, data.split, one.name, one.protocol, *flags]
    yield [*where, "clean", *[""] * (len(_ROW) - 1), *_score(result.clean)]
    for entry in result.attacks:
        yield [*where, *_row(one, entry), *_score(entry)]
    for case in worst_cases(one):
        score = Score(accuracy=case.accuracy, ci95=case.ci95, n=data.n)
        yield [*where, "worst case", "", "", case.norm, f"{case.eps:.6g}", case.space, *[""] * 5, *_score(score)]


def _row(one: Evaluated, entry: AttackEntry) -> list[object]:
    threat = [entry.kind, entry.norm, f"{entry.eps:.6g}", entry.space, entry.steps, entry.restarts]
    return [base(entry), entry.iterate, *threat, sees(entry), targets(one, entry), "yes" if cumulative(one, entry) else "no"]


def _overview(one: Overview) -> Iterator[list[object]]:
    for line in one.lines:
        cells = [cell for entry in line.entries for cell in ([*_score(entry.score), entry.by.name] if entry else [""] * 5)]
        yield [line.run, line.method, one.dataset, one.split, short_threat(*one.threat), *cells, line.alarms]


def _score(score: Score) -> list[object]:
    return [percent(score.accuracy), *map(percent, score.ci95), score.n]


def _written(header: Iterable[str], lines: Iterable[list[object]]) -> str:
    text = io.StringIO()
    out = writer.writer(text, lineterminator="\n")
    out.writerow(header)
    out.writerows([_inert(cell) for cell in line] for line in lines)
    return text.getvalue()


def _inert(cell: object) -> object:
    """A spreadsheet would run a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
