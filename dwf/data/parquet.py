"""A folder of parquet files with a column of encoded images and a column of labels, as the Hugging Face hub serves them.

Class names come from the `datasets` description in the schema, else from `class_names.json` beside the files, else they are the
numbers themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dwf.core.errors import Refused
from dwf.core.files import place
from dwf.core.settings import Settings
from dwf.core.types import Images
from dwf.data.decode import Bad, Entry, Mode, Split, decode

WORDS: dict[Split, tuple[tuple[str, ...], ...]] = {
    "train": (("train",),),
    "test": (("test",), ("validation", "valid", "val")),
}
"""What the files of a split are called; the second group only counts where nothing bears a name of the first."""


class Parquet(Settings):
    """Any folder with `train*.parquet` and `test*.parquet` (or `validation`, `valid`, `val`), directly or one folder down."""

    kind: Literal["parquet"] = "parquet"
    path: str
    """The folder."""
    bad: Bad = "refuse"
    """Bad entries: refuse the data set, or skip and count them."""
    mode: Mode = "auto"
    """`rgb` and `grey` convert every image; `auto` takes what most are and calls the others bad."""

    def __call__(self, split: Split) -> Images:
        """Every image of the split; raises `Refused` for missing files, damaged ones, and bad entries."""
        root = place(self.path)
        if not root.is_dir():
            raise Refused(f"'{self.path}' is not a folder; give a folder with parquet files with --data FOLDER")
        if not find(root, split):
            wanted = ", ".join(f"{word}*.parquet" for group in WORDS[split] for word in group)
            there = ", ".join(file.name for file in _files(root)[:5]) or "no parquet file at all"
            raise Refused(f"{self.path} has no {split} images: looked for {wanted} and found {there}; add or rename the file")
        return read(root, split, root.resolve().name, bad=self.bad, mode=self.mode)


def holds(root: Path) -> bool:
    """Whether a folder has parquet files, directly or one folder down."""
    return bool(_files(root))


def find(root: Path, split: Split) -> list[Path]:
    """The files of a split, in order, or none; raises `Refused` if one of several numbered files is missing."""
    for group in WORDS[split]:
        name = re.compile(rf"({'|'.join(group)})([^a-zA-Z].*)?")
        for files in (list(root.glob("*.parquet")), list(root.glob("*/*.parquet"))):
            found = sorted(f for f in files if name.fullmatch(f.stem) or (f.parent != root and name.fullmatch(f.parent.name)))
            if found:
                _complete(found)
                return found
    return []


def read(root: Path, split: Split, name: str, *, bad: Bad, mode: Mode) -> Images:
    """The images of the split's files under `root`, which `find` must have found; raises `Refused` as `Parquet` says."""
    files = find(root, split)
    entries = [entry for file in files for entry in _entries(file)]
    return decode(entries, _classes(root, files), name, bad=bad, mode=mode)


def _files(root: Path) -> list[Path]:
    return sorted([*root.glob("*.parquet"), *root.glob("*/*.parquet")])


def _complete(files: Sequence[Path]) -> None:
    """A download that stopped half-way must not pass for a small data set."""
    for file in files:
        if counted := re.search(r"-of-(\d+)", file.stem):
            siblings = sum(other.parent == file.parent and counted[0] in other.stem for other in files)
            if siblings < int(counted[1]):
                raise Refused(f"{file.parent} has {siblings} of the {int(counted[1])} files that {file.name} announces; "
                              "fetch the missing ones")  # fmt: skip


def _table(file: Path, columns: list[str] | None = None) -> Any:
    try:
        with pq.ParquetFile(file) as parquet:
            return parquet.schema_arrow if columns is None else parquet.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise Refused(f"{file} is not a readable parquet file ({reason}); fetch or write it again") from error


def _entries(file: Path) -> Iterator[Entry]:
    schema = _table(file)
    image, label = _image_column(schema, file), _label_column(schema, file)
    table = _table(file, [image, label])
    encoded = table[image]
    if pa.types.is_struct(encoded.type):
        encoded = pc.struct_field(encoded, "bytes")
    for row, (content, number) in enumerate(zip(encoded.to_pylist(), table[label].to_pylist(), strict=True)):
        yield Entry(f"{file} row {row}", content, number)


def _image_column(schema: Any, file: Path) -> str:
    """`image` or `img`, else the only column that can hold encoded files."""
    able = [field.name for field in schema if _holds_bytes(field.type)]
    named = [name for name in ("image", "img") if name in able] or able
    if not named or (len(able) > 1 and named is able):
        raise Refused(f"{file} has the columns {', '.join(schema.names)}, and none of them is plainly the images; name a column "
                      "of encoded images (struct<bytes, path> or binary) 'image'")  # fmt: skip
    return str(named[0])


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label_column(schema: Any, file: Path) -> str:
    """`label`, `fine_label` or `labels`, else the only column of whole numbers."""
    able = [field.name for field in schema if pa.types.is_integer(field.type)]
    named = [name for name in ("label", "fine_label", "labels") if name in able] or able
    if not named or (len(able) > 1 and named is able):
        raise Refused(f"{file} has the columns {', '.join(schema.names)}, and none of them is plainly the labels; name a column "
                      "of whole numbers 'label'")  # fmt: skip
    return str(named[0])


def _classes(root: Path, files: Sequence[Path]) -> list[str]:
    """Class names in label order."""
    schema = _table(files[0])
    names = _described((schema.metadata or {}).get(b"huggingface", b"{}"), _label_column(schema, files[0]))
    beside = root / "class_names.json"
    if not names and beside.is_file():
        names = _listed(beside)
    return [str(name) for name in names] if names else _numbered({*files, *find(root, "train"), *find(root, "test")})


def _described(metadata: bytes, column: str) -> list[str] | None:
    """The names of a class column as the hub's library writes them beside the table; None if it wrote nothing of the kind."""
    try:
        found = json.loads(metadata)
    except ValueError:
        return None
    for key in ("info", "features", column, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    return [str(name) for name in found] if isinstance(found, list) else None


def _listed(file: Path) -> list[str]:
    """A list of names, or an object whose first list is that."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Refused(f"{file} is not JSON ({error}); write a list of class names in label order") from error
    lists = [v for v in (value.values() if isinstance(value, dict) else [value]) if isinstance(v, list)]
    if not lists:
        raise Refused(f"{file} holds no list; write a list of class names in label order")
    return lists[0]


def _numbered(files: set[Path]) -> list[str]:
    """ "0" ... the largest label of either split, so that both have the same classes."""
    top = rows = 0
    for file in files:
        label = _label_column(_table(file), file)
        column = _table(file, [label])[label]
        top, rows = max(top, pc.max(column).as_py() or 0), rows + len(column)
    return [str(i) for i in range(min(top + 1, rows))]  # more classes than images is a wrong label, found when it is checked
