"""A folder of class folders: `train/<class>/*` and `test/<class>/*`, any files that Pillow reads.

Decoded once to an array that later runs map into memory. The array is found again by the names, sizes and times of all files, so
that adding, removing or changing one decodes anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from dwf.core.errors import Refused
from dwf.core.files import place, written_folder
from dwf.core.settings import Settings
from dwf.core.types import Images
from dwf.data.decode import Bad, Entry, Mode, Split, channels_first, decode

SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "test": ("test", "validation", "valid", "val")}
"""What the folder of a split may be called, in order of preference."""


class Folder(Settings):
    """Class folders under `train` and `test` (or `validation`, `valid`, `val`); the classes are the folders' names, sorted."""

    kind: Literal["folder"] = "folder"
    path: str
    """The folder that holds `train` and `test`."""
    bad: Bad = "refuse"
    """Bad files: refuse the data set, or skip and count them."""
    mode: Mode = "auto"
    """`rgb` and `grey` convert every image; `auto` takes what most are and calls the others bad."""
    size: int | None = Field(default=None, ge=4)
    """Pixels: scale the shorter side to it and crop the centre. Without it, all images must have one size."""

    def __call__(self, split: Split) -> Images:
        """Every image of the split; raises `Refused` for missing folders and bad files."""
        root = place(self.path).resolve()
        entries, classes = _listing(root, split)
        kind = f"{split}-{self.mode}-{self.size or 'as-is'}-{self.bad}-"
        cache = _cache(root)
        kept = cache / (kind + _key(root, entries, classes))
        images = _load(kept)
        if images is None:
            images = decode(entries, classes, root.name, bad=self.bad, mode=self.mode, size=self.size)
            if _load(kept) is None:  # no other process was quicker
                for stale in cache.glob(f"{kind}*"):
                    shutil.rmtree(stale, ignore_errors=True)
                with suppress(OSError, Refused):  # another was quicker now, or the disc is full: the images are here all the same
                    _store(images, kept)
            images = _load(kept) or images  # mapped instead of held
        return images


def _listing(root: Path, split: Split) -> tuple[list[Entry], list[str]]:
    """All files of a split with their labels, and the class names, which are those of the training set if there is one."""
    place = _place(root, split)
    if place is None:
        raise Refused(f"{root} has no {split} images: looked for a folder {' or '.join(SPLITS[split])} with one folder for each "
                      "class")  # fmt: skip
    classes = [folder.name for folder in _seen(_place(root, "train") or place) if folder.is_dir()]
    entries = []
    for item in _seen(place):
        if item.is_dir() and item.name not in classes:
            raise Refused(f"{item} is a class that the training set does not have; its classes are {', '.join(classes)}")
        label = classes.index(item.name) if item.is_dir() else None  # a loose file belongs to no class
        entries += [Entry(str(file), file, label) for file in files_of(item)]
    return entries, classes


def files_of(item: Path) -> list[Path]:
    """A file by itself, or those below a folder at any depth, in order, without hidden ones.

    Raises `Refused` for a folder that cannot be read: its images would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise Refused(f"{error.filename} cannot be read ({error.strerror}); repair its rights or remove it")

    if not item.is_dir():
        return [item]
    found, known = list[Path](), set[str]()
    for folder, below, names in os.walk(item, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in known:  # a link to where we have been
            below.clear()
            continue
        known.add(real)
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    return sorted(file for file in found if file.is_file())


def _place(root: Path, split: Split) -> Path | None:
    return next((root / word for word in SPLITS[split] if (root / word).is_dir()), None)


def _seen(folder: Path) -> list[Path]:
    return sorted(item for item in folder.iterdir() if not item.name.startswith("."))


def _key(root: Path, entries: list[Entry], classes: list[str]) -> str:
    """A name for exactly these files."""
    digest = hashlib.blake2b(json.dumps([str(root), classes]).encode(), digest_size=12)
    for entry in entries:
        state = Path(entry.where).stat()
        digest.update(os.fsencode(f"{entry.where}|{state.st_size}|{state.st_mtime_ns}\n"))  # names need not be UTF-8
    return digest.hexdigest()


def _cache(root: Path) -> Path:
    """A folder to write to: beside the images, else in the user's cache, else a new temporary one."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (root / ".dwf-cache", user / "dwf" / hashlib.blake2b(str(root).encode(), digest_size=8).hexdigest()):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="dwf-"))


def _store(images: Images, kept: Path) -> None:
    meta = {"classes": images.classes, "name": images.name, "sha256": images.sha256, "skipped": images.skipped}
    with written_folder(kept) as beside:
        np.save(beside / "pixels.npy", images.pixels.permute(0, 2, 3, 1).numpy())
        np.save(beside / "rows.npy", torch.stack([images.labels, images.index]).numpy())
        (beside / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _load(kept: Path) -> Images | None:
    """The stored images, mapped (copy on write, so that nobody can change the file); None where they are missing or damaged."""
    try:
        pixels = np.load(kept / "pixels.npy", mmap_mode="c")
        labels, index = torch.from_numpy(np.load(kept / "rows.npy"))
        meta = json.loads((kept / "meta.json").read_text(encoding="utf-8"))
        return Images(channels_first(pixels), labels, tuple(meta["classes"]), index, meta["name"], meta["sha256"], meta["skipped"])
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
