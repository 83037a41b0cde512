"""Who may import whom: downwards only. Read off the syntax trees, so that a late import counts like any other."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dwf

ROOT = Path(dwf.__file__).parent
LAYERS = {
    "core": set(),
    "data": {"core"},
    "models": {"core"},
    "attacks": {"core"},
    "training": {"core"},
    "methods": {"core", "models", "attacks", "training"},
    "evaluation": {"core", "models", "attacks"},
    "report": {"core"},
    "executors": {"core"},
    "cli": {
        *("core", "data", "models", "evaluation", "report", "executors", "verbs"),
        *("run", "cells", "demo", "inventory", "progress", "tensorboard"),
    },
    "verbs": {"core", "data", "models", "attacks", "training", "methods", "evaluation", "report", "executors", "run", "cells"},
}
"""Package -> what it may import besides itself. The modules directly under dwf stand above all of them."""
OUTSIDE = {"torch", "numpy", "pydantic", "pydantic_core"}
"""What core may import besides the standard library."""


def imported(file: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever in the file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def names(file: Path) -> str:
    return str(file.relative_to(ROOT.parent))


def test_every_package_has_its_place() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(LAYERS)


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_downwards_only(package: str) -> None:
    allowed = LAYERS[package] | {package}
    wrong = [
        f"{names(file)} imports {module}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for module in imported(file)
        if module.split(".")[0] == "dwf" and module.split(".")[1] not in allowed
    ]
    assert wrong == []


def test_methods_see_the_contract_of_training_and_not_its_loop() -> None:
    wrong = [
        f"{names(file)} imports {module}"
        for file in sorted((ROOT / "methods").glob("*.py"))
        for module in imported(file)
        if module.startswith("dwf.training") and module.split(".")[2] not in {"plan", "optim"}
    ]
    assert wrong == []


def test_core_needs_little_from_outside() -> None:
    wrong = [
        f"{names(file)} imports {module}"
        for file in sorted((ROOT / "core").glob("*.py"))
        for module in imported(file)
        if module.split(".")[0] not in sys.stdlib_module_names | OUTSIDE | {"dwf"}
    ]
    assert wrong == []


def test_no_module_imports_itself_in_a_circle() -> None:
    """Among the modules of one package, where the layers say nothing. Imports for type checking alone do not run."""
    graph = {}
    for file in files():
        module = ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = _running(file)
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module in finished or module not in graph:
            return
        for other in graph[module]:
            target = other if other in graph else other.rpartition(".")[0]
            if target != module and target in graph:
                visit(target, (*path, module))
        finished.add(module)

    for module in graph:
        visit(module, ())
    assert finished == set(graph)


def _running(file: Path) -> list[str]:
    """What a file imports while it is imported itself."""
    found = []
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found
