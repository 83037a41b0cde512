"""The shape of the code: short files, no prints, no context manager open across a yield of a method."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import dwf

ROOT = Path(dwf.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, Any]]:
    """Where it is, and what it is, for every node of a kind in the package."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, kind):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", node


def test_no_file_is_long() -> None:
    assert {str(file.relative_to(ROOT)): lines(file) for file in FILES if lines(file) > 300} == {}


def test_the_median_file_is_short() -> None:
    assert median(lines(file) for file in FILES) <= 120


def test_every_file_says_what_it_is_for() -> None:
    assert [str(file.relative_to(ROOT)) for file in FILES if not ast.get_docstring(ast.parse(file.read_text()))] == []


def test_no_file_is_a_drawer() -> None:
    assert {file.stem for file in FILES} & {"utils", "util", "helpers", "common", "base", "misc"} == set()


def test_nothing_prints() -> None:
    assert [place for place, node in nodes(ast.Call) if isinstance(node.func, ast.Name) and node.func.id == "print"] == []


def test_no_except_catches_everything() -> None:
    assert [place for place, node in nodes(ast.ExceptHandler) if node.type is None] == []


def spanned(node: ast.AST, inside: bool = False) -> Iterator[int]:
    """Lines of yields below `node` that happen inside a `with` of the same function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FUNCTION):
            yield from spanned(child)
        elif isinstance(child, ast.Yield | ast.YieldFrom):
            yield from [child.lineno] if inside else []
            yield from spanned(child, inside)
        else:
            yield from spanned(child, inside or isinstance(child, ast.With | ast.AsyncWith))


@pytest.mark.parametrize("file", sorted((ROOT / "methods").glob("*.py")), ids=lambda file: file.stem)
def test_no_context_manager_spans_a_yield_of_a_method(file: Path) -> None:
    """An open autocast would leak into the loop, and its cached casts would be stale after the step."""
    assert list(spanned(ast.parse(file.read_text()))) == []


def test_the_search_for_spanned_yields_finds_them() -> None:
    bad = "def f():\n with a:\n  for x in y:\n   yield x\n def g():\n  yield 1\n with b:\n  def h():\n   yield 2\n"
    assert list(spanned(ast.parse(bad))) == [4]
