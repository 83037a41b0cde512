"""A member that is not listed is found here: every module of a family stands in its registry, under its own name."""

import ast
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

import dwf
from dwf.attacks import ATTACKS, AnyAttack
from dwf.core.settings import Settings
from dwf.data import DATASETS, Source
from dwf.evaluation import PROTOCOLS, AnyTable
from dwf.methods import METHODS, AnyMethod
from dwf.models import BACKBONES, Backbone

ROOT = Path(dwf.__file__).parent
FAMILIES: dict[str, tuple[str, Mapping[str, type[Settings]], Any, set[str]]] = {
    "attacks": ("ATTACKS", ATTACKS, AnyAttack, {"engine", "losses"}),
    "data": ("DATASETS", DATASETS, Source, {"batches", "decode", "split"}),
    "evaluation": (
        "PROTOCOLS",
        PROTOCOLS,
        AnyTable,
        {
            *(
                "attacked",
                "check",
                "experts",
                "flags",
                "gradients",
                "mixing",
                "parts",
                "protocol",
                "reweighed",
                "statistics",
                "sweep",
            ),
            *("permutations", "tabulate", "threats", "validation", "victim", "views"),
        },
    ),
    "methods": ("METHODS", METHODS, AnyMethod, {"regimes"}),
    "models": (
        "BACKBONES",
        BACKBONES,
        Backbone,
        {
            "bank",
            "bounds",
            "certificates",
            "compiled",
            "cost",
            "folding",
            "foreign",
            "gate",
            "inference",
            "layers",
            "mixture",
            "normalize",
            "stem",
        },
    ),
}
"""Package -> the registry's name and contents, the union of its members, and the modules that hold what the members share."""
every_family = pytest.mark.parametrize(("package", "family"), FAMILIES.items(), ids=FAMILIES.keys())


@every_family
def test_every_module_is_listed(package: str, family: tuple[str, Mapping[str, type[Settings]], Any, set[str]]) -> None:
    _, registry, _, shared = family
    modules = {file.stem for file in (ROOT / package).glob("*.py")} - {"__init__"}
    assert {member.__module__.rpartition(".")[2] for member in registry.values()} == modules - shared
    assert shared <= modules
    assert {member.__module__.rpartition(".")[0] for member in registry.values()} == {f"dwf.{package}"}


@every_family
def test_every_class_with_a_kind_is_listed(package: str, family: tuple[str, Mapping[str, type[Settings]], Any, set[str]]) -> None:
    """A file may hold two members, such as two families of nets."""
    _, registry, _, _ = family
    for file in (ROOT / package).glob("*.py"):
        module = importlib.import_module(f"dwf.{package}.{file.stem}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Settings) and value.__module__ == module.__name__:
                kind = value.model_fields.get("kind")
                assert kind is None or registry.get(kind.default) is value, f"{value.__name__} is not in the registry"
    for name, member in registry.items():
        assert "kind" not in member.model_fields or member.model_fields["kind"].default == name


@every_family
def test_the_union_of_the_settings_holds_the_same(
    package: str, family: tuple[str, Mapping[str, type[Settings]], Any, set[str]]
) -> None:
    _, registry, union, _ = family
    members = get_args(get_args(union)[0]) if get_args(union) else (union,)
    assert set(members) == set(registry.values())


@every_family
def test_the_registry_is_a_literal_in_alphabetical_order(
    package: str, family: tuple[str, Mapping[str, type[Settings]], Any, set[str]]
) -> None:
    name, registry, _, _ = family
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    (literal,) = [node.value for node in tree.body if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name]
    assert isinstance(literal, ast.Dict)
    assert [ast.literal_eval(key) for key in literal.keys] == sorted(registry) == list(registry)
    assert all(isinstance(value, ast.Name) for value in literal.values)
