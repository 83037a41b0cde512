"""A sweep's file: named cells, a grid over any settings, and by which protocols every cell is judged."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from dwf.core.errors import Refused
from dwf.core.settings import Settings
from dwf.run import Run, read

PRESET = "preset"
"""In a grid, the presets themselves."""


def _axes(value: object, path: str = "") -> dict[str, tuple[Any, ...]]:
    """`method.joint.epochs = [1, 2]` reaches us as nested tables, `"method.joint.epochs" = [1, 2]` as one key: both are an axis."""
    if isinstance(value, Mapping) and (value or not path):
        found = [axis for key, inner in value.items() for axis in _axes(inner, f"{path}.{key}".strip(".")).items()]
        names = [name for name, _ in found]
        if spelt := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"'{spelt}' stands twice, spelt in two ways; write it once, with all its values")
        return dict(found)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"'{path or 'grid'}' is {value!r}; give a list of the values to try, such as seed = [0, 1, 2]")
    if twice := [one for one in value if list(value).count(one) > 1]:
        raise ValueError(f"'{path}' has {twice[0]!r} twice; name every value once")
    return {path: tuple(value)}


def _judge(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Judging(Settings):
    """One protocol with its settings."""

    name: str
    """See: dwf list protocols."""
    set: tuple[str, ...] = ()
    """Texts such as "protocol.eps=0.02"."""


class Variant(Settings):
    """One cell by its name, before the grid multiplies it."""

    name: str = Field(pattern=r"^\w")
    preset: str | None = None
    """None: that of the whole sweep."""
    set: tuple[str, ...] = ()
    """Changes of settings, after those of the whole sweep."""


class Sweep(Settings):
    """Cells = variants x grid. Without `cells` there is one variant, the preset as it is."""

    about: str = ""
    """One line."""
    preset: str | None = None
    """A preset or a TOML file, as `dwf train` takes it; a cell or the grid may name others."""
    data: str | None = None
    """A data set by name, or a folder; None: that of each preset."""
    set: tuple[str, ...] = ()
    """Changes of settings for all cells, each as after `--set`."""
    grid: Annotated[dict[str, tuple[Any, ...]], BeforeValidator(_axes)] = Field(default_factory=dict)
    """Path of a setting (or `preset`) -> values; every combination is a cell."""
    cells: tuple[Variant, ...] = ()
    """For changes one at a time."""
    protocols: tuple[Annotated[Judging, BeforeValidator(_judge)], ...] = (Judging(name="table3"),)
    """Each cell is judged by all of them; empty: only trained."""
    samples: int | None = Field(default=None, ge=1)
    """Test images, the same for all cells; None takes all."""
    split: Literal["test", "val"] = "test"
    """"val" judges by what the run held out: choose by it, and leave the test images alone until you have chosen."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: `dwf train PRESET --set ...`."""

    name: str
    """Of its folder, of its run and in the report."""
    preset: str
    overrides: tuple[str, ...]
    run: Run


def read_sweep(file: Path, data: str | None = None) -> Sweep:
    """What the file says, with other `data` (a name or a folder) where that is given.

    Raises `Refused` for what is not there, no TOML, unknown keys and wrong values.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{file} does not exist; name the TOML file of a sweep, such as docs/sweep.md shows") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise Refused(f"{file} is not a readable TOML file: {error}") from None
    return Sweep.read({**table, **({"data": data} if data else {})}, where=str(file))


def cells_of(sweep: Sweep) -> list[Cell]:
    """Every cell in the order of the file; raises `Refused`, naming the cell, for a setting that does not fit or a name twice."""
    cells = [
        _cell(sweep, variant, point) for variant in sweep.cells or (None,) for point in itertools.product(*_labelled(sweep.grid))
    ]
    names = [cell.name for cell in cells]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Refused(f"two cells of the sweep are both called '{twice}'; give cells other names, and a grid every value once")
    return cells


@dataclass(frozen=True)
class _Choice:
    """One value of one axis."""

    path: str
    value: Any
    label: str


def _labelled(grid: Mapping[str, Sequence[Any]]) -> Iterator[list[_Choice]]:
    """The axes, each value with what it adds to a cell's name; seeds come last, where tables look for them."""
    for path, values in sorted(grid.items(), key=lambda axis: axis[0] == "seed"):
        key = _short(path, list(grid))
        labels = [_label(value) for value in values]
        if any(len(label) > 40 for label in labels) or len(set(labels)) < len(labels):
            labels = [str(number + 1) for number in range(len(values))]
        prefix = "" if path == PRESET else key
        yield [_Choice(path, value, f"{prefix}{label}") for value, label in zip(values, labels, strict=True)]


def _short(path: str, paths: Sequence[str]) -> str:
    """The end of a dotted path that no other path ends in."""
    keys = path.split(".")
    ends = [".".join(keys[-count:]) for count in range(1, len(keys) + 1)]
    return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in paths) == 1), path)


def _label(value: Any) -> str:
    """A value as part of a folder's name."""
    if isinstance(value, Mapping):
        return "_".join(map(_label, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "_".join(map(_label, value))
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^\w.+-]+", "_", text.removesuffix(".toml"))


def _cell(sweep: Sweep, variant: Variant | None, point: Sequence[_Choice]) -> Cell:
    """One cell, its settings read and checked."""
    chosen = {choice.path: choice.value for choice in point}
    preset = chosen.pop(PRESET, None) or (variant and variant.preset) or sweep.preset
    if not isinstance(preset, str):
        where = "the sweep" if variant is None else f"cell '{variant.name}'"
        raise Refused(f'{where} names no preset; add a line such as preset = "dwf-digits", see: dwf list presets')
    begins = variant.name if variant else "" if PRESET in {choice.path for choice in point} else Path(preset).stem
    name = "-".join(part for part in (_label(begins), *(choice.label for choice in point)) if part)
    own = variant.set if variant else ()
    for path in chosen:
        if any(text.partition("=")[0].strip() == path for text in own):
            raise Refused(f"cell '{variant.name if variant else name}' sets '{path}', which the grid varies; leave one of them out")
    overrides = (*sweep.set, *own, *(f"{path}={_toml(value)}" for path, value in chosen.items()))
    try:
        return Cell(name, preset, overrides, read(preset, [*overrides, f"name={_toml(name)}"], data=sweep.data))
    except Refused as refusal:
        raise Refused(f"cell '{name}': {refusal}") from None


def _toml(value: Any) -> str:
    """A value that was read from TOML, as TOML on one line again."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
