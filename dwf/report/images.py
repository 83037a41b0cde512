"""A few images, what FGSM and PGD add to them (drawn ten times larger, around grey), and what the model then says.

A protocol stores what it has: `table3` both, `standard` neither.
"""

from __future__ import annotations

import base64
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from dwf.core.errors import Refused
from dwf.core.wording import listed, threat
from dwf.report.headline import chosen
from dwf.report.markup import blocks, scrolling, tag
from dwf.report.reading import Evaluated

KINDS = ("fgsm", "pgd")
SHOWN = 8
"""Rows of the grid."""
TIMES = 10.0
"""How much larger than life a perturbation is drawn, at most: what is added at its largest still fits between black and white."""

Arrays = Mapping[str, NDArray[Any]]


def images(evaluated: Sequence[Evaluated]) -> str | None:
    """One grid a run and headline threat: by the evaluation that stored most kinds of images, then by that of most images."""
    stored = {id(one): load(one.images) for one in evaluated if one.images}
    having = [one for one in evaluated if _kinds(stored.get(id(one), {}))]
    shown = chosen(having, lambda one: (-len(_kinds(stored[id(one)])), -one.result.dataset.n))
    return blocks([(f"{one.run}, {one.name}", _grid(one, stored[id(one)])) for one in shown])


def load(path: Path) -> Arrays:
    """The arrays of an images file, clean and of every kind that it has; raises `Refused` for a damaged one."""
    needed = ["index", "label", "clean", "clean_prediction"]
    try:
        with np.load(path, allow_pickle=False) as file:
            kinds = [kind for kind in KINDS if kind in file.files]
            needed += [name for kind in kinds for name in (kind, f"{kind}_prediction", f"{kind}_eps")]
            arrays = {name: file[name] for name in needed}
    except (KeyError, OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        raise Refused(f"{path} is damaged, its images cannot be read; evaluate the run again") from None
    clean, sizes = arrays["clean"], {len(array) for name, array in arrays.items() if not name.endswith("_eps")}
    if clean.ndim != 4 or len(sizes) != 1 or any(arrays[kind].shape != clean.shape for kind in kinds):
        raise Refused(f"{path} is damaged, its arrays do not fit together; evaluate the run again")
    return arrays


def _grid(one: Evaluated, arrays: Arrays) -> Markup:
    kinds = _kinds(arrays)
    threats = [f"{kind.upper()} at {_threat(one, arrays, kind)}" for kind in kinds]
    caption = f"Images under {listed(threats)}"
    header = ["Image", "Clean"]
    times = {kind: _times(arrays, kind) for kind in kinds}
    header += [text for kind in kinds for text in (f"{kind.upper()} adds (x{times[kind]:.3g})", f"Under {kind.upper()}")]
    rows = [_row(one, arrays, times, i) for i in range(min(SHOWN, len(arrays["label"])))]
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in header)))
    whole = tag("table", tag("caption", tag("span", caption)), head, tag("tbody", *rows), class_="images")
    note = "✓ marks a right prediction, ✗ a wrong one. Mid grey in a perturbation is no change."
    return scrolling(whole, f"{one.run}, {one.name}: {caption}") + tag("p", note, class_="small")


def _kinds(arrays: Arrays) -> list[str]:
    return [kind for kind in KINDS if kind in arrays]


def _times(arrays: Arrays, kind: str) -> float:
    largest = float(np.nan_to_num(np.abs(arrays[kind] - arrays["clean"])).max(initial=0.0))
    return min(TIMES, 0.5 / max(largest, 1e-9))


def _threat(one: Evaluated, arrays: Arrays, kind: str) -> str:
    norm, space = (one.headline.norm, one.headline.space) if one.headline else ("linf", "pixel")
    return threat(norm, float(arrays[f"{kind}_eps"]), space)


def _row(one: Evaluated, arrays: Arrays, times: Mapping[str, float], i: int) -> Markup:
    label, row = int(arrays["label"][i]), int(arrays["index"][i])
    truth = _class(one, label)
    cells = [tag("th", truth, tag("small", f"row {row}"), scope="row")]
    cells.append(_seen(one, arrays["clean"][i], int(arrays["clean_prediction"][i]), label, f"Clean image {row}, {truth}"))
    for kind, factor in times.items():
        change = 0.5 + factor * (arrays[kind][i] - arrays["clean"][i])
        cells.append(tag("td", _picture(change, f"What {kind.upper()} adds to image {row}, times {factor:.3g}")))
        prediction, name = int(arrays[f"{kind}_prediction"][i]), f"Image {row} under {kind.upper()}, {truth}"
        cells.append(_seen(one, arrays[kind][i], prediction, label, name))
    return tag("tr", *cells)


def _seen(one: Evaluated, pixels: NDArray[Any], prediction: int, label: int, name: str) -> Markup:
    said = _class(one, prediction)
    right = prediction == label
    picture = _picture(pixels, f"{name}: the model says {said}, {'right' if right else 'wrong'}")
    return tag("td", picture, tag("span", f"{'✓' if right else '✗'} {said}", class_="right" if right else "wrong"))


def _picture(pixels: NDArray[Any], alt: str) -> Markup:
    """(C, H, W) in [0, 1] as an image element; other than one or three channels are shown as their mean."""
    shown = pixels if len(pixels) in (1, 3) else pixels.mean(axis=0, keepdims=True)
    colours = np.broadcast_to(np.clip(np.nan_to_num(shown), 0, 1), (3, *shown.shape[1:])).transpose(1, 2, 0)
    png = io.BytesIO()
    bytes_ = np.round(255 * colours).astype(np.uint8)
    matplotlib.image.imsave(png, np.ascontiguousarray(bytes_), format="png", metadata={"Software": "dwf"})
    source = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    return tag("img", src=source, alt=alt, width=72, height=72)


def _class(one: Evaluated, number: int) -> str:
    return one.classes[number] if 0 <= number < len(one.classes) else f"class {number}"
