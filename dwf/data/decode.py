"""Encoded images become one array of bytes, and every entry is checked on the way.

An entry is bad if its file is missing, no image, truncated or corrupt, if its mode (grey, palette, alpha ...) or its size is not
that of the others, or if its label is missing or names no class. Bad entries are refused or, if the user asks, left out and
counted. Shared by everything that reads image files: parquet, hub and folder.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dwf.core.errors import Refused
from dwf.core.types import Images

Split = Literal["train", "test"]
Bad = Literal["refuse", "skip"]
Mode = Literal["auto", "rgb", "grey"]

_FORCED = {"rgb": "RGB", "grey": "L"}
_CHANNELS = {"RGB": 3, "L": 1}
_WORDS = {"RGB": "an RGB", "L": "a grey", "P": "a palette", "RGBA": "an alpha", "LA": "a grey alpha", "PA": "a palette alpha"}
_SAMPLE = 100  # so many readable files say which mode and size is the usual one
_CHUNK = 256  # files a task decodes: one task a file would spend a second on the queue alone
# What Pillow's readers raise on damaged files, beside the OSError of the truncated ones.
_DAMAGE = (
    *(OSError, RuntimeError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError),
    *(struct.error, zlib.error),
)
_UNREADABLE = (*_DAMAGE, Image.DecompressionBombError)


class Entry(NamedTuple):
    """One image file and its label, not looked at yet."""

    where: str
    """How to name it to the user: a path, or a path and a row."""
    content: bytes | Path | None
    """The encoded file, where it lies, or None where it is missing."""
    label: int | None


class _Shape(NamedTuple):
    """What every image must be."""

    mode: str
    """"RGB" or "L"."""
    width: int
    height: int


def decode(
    entries: Sequence[Entry],
    classes: Sequence[str],
    name: str,
    *,
    bad: Bad,
    mode: Mode,
    size: int | None = None,
    fewest: int = 2,
) -> Images:
    """The images of all good entries, in order; `index` is the position among the entries, whether or not some are left out.

    `mode`: "rgb" and "grey" convert; "auto" takes what most of the first files are, and calls the others bad. `size` (pixels):
    scale the shorter side and crop the centre; None calls every size but the usual one bad. Raises `Refused` for bad entries
    unless `bad` is "skip", for no good entry at all, and for images of fewer than `fewest` classes.
    """
    if not entries:
        wanted = "at least one image" + (f" of each of {fewest} classes" if fewest > 1 else "")
        raise Refused(f"{name} holds no images; give {wanted}")
    shape = _usual(entries, name, mode, size)
    pixels = np.zeros((len(entries), shape.height, shape.width, _CHANNELS[shape.mode]), np.uint8)
    convert, resize = mode != "auto", size is not None

    def fill(start: int) -> list[str | None]:
        rows = range(start, min(start + _CHUNK, len(entries)))
        return [_wrong_label(entries[i], classes) or _fill(pixels[i], entries[i], shape, convert, resize) for i in rows]

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets other threads run while it decodes
        problems = [problem for part in pool.map(fill, range(0, len(entries), _CHUNK)) for problem in part]
    good = [i for i, problem in enumerate(problems) if problem is None]
    skipped = len(entries) - len(good)
    if skipped and (bad == "refuse" or not good):
        raise Refused(_sentence(entries, problems, skipped))
    if skipped:
        pixels = pixels[good]
    labels = np.array([entries[i].label for i in good], np.int64)
    return assemble(pixels, labels, np.array(good, np.int64), classes, name, skipped=skipped, fewest=fewest)


def assemble(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    index: NDArray[np.int64],
    classes: Sequence[str],
    name: str,
    *,
    skipped: int = 0,
    fewest: int = 2,
) -> Images:
    """pixels (N, H, W, C), labels and index (N,) as `Images`, with their checksum; raises `Refused` below `fewest` classes."""
    if len(present := np.unique(labels)) < fewest:
        raise Refused(
            f"{name} holds {len(labels)} images, all of class '{classes[int(present[0])]}', and a classifier needs at least "
            "2 classes; give a data set with more"
        )
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data)
    digest.update(np.ascontiguousarray(labels).data)
    return Images(
        pixels=channels_first(pixels),
        labels=torch.from_numpy(labels),
        classes=tuple(classes),
        index=torch.from_numpy(index),
        name=name,
        sha256=digest.hexdigest(),
        skipped=skipped,
    )


def channels_first(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """(N, H, W, C) as a view (N, C, H, W): the bytes stay where a channels_last batch wants them."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _usual(entries: Sequence[Entry], name: str, mode: Mode, size: int | None) -> _Shape:
    """Mode and size of most of the first readable files, where all are scaled the mode alone; of equally many, of the first."""
    shapes = (shape for entry in entries if (shape := _header(entry, mode)))
    seen = Counter(islice((shape if size is None else _Shape(shape.mode, size, size) for shape in shapes), _SAMPLE))
    if not seen:
        kind = "an RGB or grey image" if mode == "auto" else "a readable image"
        raise Refused(f"{name}: none of the {len(entries)} entries is {kind}, beginning with {entries[0].where}; "
                      "give encoded images such as PNG or JPEG")  # fmt: skip
    return seen.most_common(1)[0][0]


def _header(entry: Entry, mode: Mode) -> _Shape | None:
    """What the head of the file promises; None where it is unreadable or of a mode that cannot be the usual one."""
    try:
        with _open(entry) as image:
            found = _FORCED.get(mode, image.mode)
            return _Shape(found, *image.size) if found in _CHANNELS and not _deep(image.mode) else None
    except _UNREADABLE:
        return None


def _wrong_label(entry: Entry, classes: Sequence[str]) -> str | None:
    if entry.label is None:
        return "has no label"
    if entry.label < 0:
        return f"has the label {entry.label}, which is negative"
    if entry.label >= len(classes):
        return f"has the label {entry.label}, but the {len(classes)} classes end at {len(classes) - 1}"
    return None


def _fill(out: NDArray[np.uint8], entry: Entry, shape: _Shape, convert: bool, resize: bool) -> str | None:
    """Decode into `out` (H, W, C); returns what is wrong instead, if anything is."""
    if entry.content is None:
        return "has no image bytes"
    try:
        with _open(entry) as image:
            if _deep(image.mode) or (not convert and image.mode != shape.mode):
                return _wrong_mode(image.mode, shape.mode)
            if not resize and image.size != (shape.width, shape.height):  # before the pixels of a huge one are unpacked
                found, usual = f"{image.width}x{image.height}", f"{shape.width}x{shape.height}"
                return f"is {found} pixels large where the others are {usual}"
            image.load()  # raises on a truncated file, which opening does not
            out[...] = np.asarray(_converted(image, shape, resize)).reshape(out.shape)
    except UnidentifiedImageError:
        return "is not an image file"
    except _UNREADABLE as error:
        return f"is truncated or corrupt ({error})"
    return None


def _converted(image: Image.Image, shape: _Shape, resize: bool) -> Image.Image:
    if image.mode == "P":  # a palette may carry transparency, which Pillow only drops without a warning by way of RGBA
        image = image.convert("RGBA")
    if image.mode != shape.mode:
        image = image.convert(shape.mode)
    return ImageOps.fit(image, (shape.width, shape.height), Image.Resampling.BILINEAR) if resize else image


def _open(entry: Entry) -> Image.Image:
    content: Any = io.BytesIO(entry.content) if isinstance(entry.content, bytes) else entry.content
    if content is None:
        raise OSError("no bytes")
    return Image.open(content)


def _wrong_mode(found: str, usual: str) -> str:
    is_a = f"is {_WORDS.get(found, f'a mode-{found}')} image"
    if _deep(found):
        return f"{is_a} of more than 8 bits a pixel"
    others, setting = ("RGB", "rgb") if usual == "RGB" else ("grey", "grey")
    return f"{is_a} where the others are {others} (--set data.source.mode={setting} converts it)"


def _deep(mode: str) -> bool:
    """More than 8 bits a pixel: Pillow would clip the values instead of scaling them."""
    return mode.startswith(("I", "F"))


def _sentence(entries: Sequence[Entry], problems: Sequence[str | None], count: int) -> str:
    """The first bad entry, how many others there are, and what to do."""
    first = next(i for i, problem in enumerate(problems) if problem)
    others = f", and {count - 1} more of the {len(entries)} entries are bad" if count > 1 else ""
    do = "leave it out" if count == 1 else "leave them out"
    return f"{entries[first].where} {problems[first]}{others}; repair the data or {do} with --set data.source.bad=skip"
