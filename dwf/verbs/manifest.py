"""What `dwf attack` leaves behind: the images as lossless 8-bit files, exact arrays, and a manifest that says what each one does.

A file has 256 levels a channel, an attack knows none. What a reader of the files gets is the rounded image, so that it is judged
beside the exact one: rounding may undo the attack, and may leave the ball by half a level, 1/510, in each pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dwf.core.files import write_json
from dwf.core.result import DatasetEntry, Score
from dwf.core.settings import Settings
from dwf.core.types import Threat
from dwf.core.wording import NORMS, plural, radius
from dwf.core.wording import threat as worded
from dwf.evaluation.parts import Arrays, write_arrays
from dwf.evaluation.statistics import Bits, score

SCHEMA = 1
HALF_LEVEL = 1 / 510
"""The most that rounding to 8 bits moves a pixel."""
STORED = ("adversarial", "index", "label", "prediction/clean", "prediction/adversarial", "prediction/rounded")
"""Of the arrays, what images.npz keeps."""


class Origin(Settings):
    """A trained model."""

    run: str
    weights: str
    """A checksum of its weights."""


class ThreatEntry(Settings):
    """What the attack was allowed to do."""

    norm: str
    eps: float
    text: str
    """`Linf 8/255 (0.0314)`."""


class Versions(Settings):
    """A class name, or a file, for each version of one image."""

    clean: str
    adversarial: str
    """Exactly as attacked, in float."""
    rounded: str
    """As the file holds it."""


class Distance(Settings):
    """From the clean image, as a share of the pixel range (Linf) or in units of it (L2)."""

    linf: float
    """To 7 digits, which is what float32 holds: eps itself may appear a last digit larger."""
    l2: float


class ImageEntry(Settings):
    """One image."""

    index: int
    """Its row in the data set, or its place among the sorted files of the folder."""
    label: str
    source: str | None
    """The file that it was read from, inside the folder."""
    clean: str
    """File of the clean image, inside the folder of the manifest."""
    adversarial: str
    """File of the adversarial image, rounded to 8 bits."""
    prediction: Versions
    distance: Distance
    """Of the image as attacked."""
    distance_rounded: Distance
    broken: bool
    """The model names another class than the label or, where there is a target, that target."""
    broken_rounded: bool
    """The same for the image as the file holds it."""


class Totals(Settings):
    """Over all images. An accuracy counts who is named by the label, also where the attack had a target."""

    clean: Score
    adversarial: Score
    rounded: Score
    broken: int
    broken_rounded: int
    outside: int
    """Images that rounding took out of the ball."""


class Manifest(Settings):
    """Everything about one attack on one run; `manifest.json` but for its schema."""

    model: Origin
    """What was attacked, and judges."""
    surrogate: Origin | None
    """What the images were made on, if not on the model itself."""
    attack: dict[str, Any]
    """Every setting."""
    threat: ThreatEntry
    target: str | None
    data: DatasetEntry
    seed: int
    environment: dict[str, Any]
    totals: Totals
    note: str
    """What rounding to 8 bits did to the attack."""
    images: tuple[ImageEntry, ...]


def broken(found: Arrays, version: str, goal: int | None) -> Bits:
    """(N,) whether the attack reached its end on this version: any wrong class, or the class `goal`."""
    named: Bits = found[f"prediction/{version}"] != found["label"] if goal is None else found[f"prediction/{version}"] == goal
    return named


def total(found: Arrays, goal: int | None) -> Totals:
    """The sums over all images."""
    right = {version: score(found[f"prediction/{version}"] == found["label"]) for version in Versions.model_fields}
    return Totals(
        **right,
        broken=int(broken(found, "adversarial", goal).sum()),
        broken_rounded=int(broken(found, "rounded", goal).sum()),
        outside=int(found["outside"].sum()),
    )


def noted(found: Arrays, threat: Threat, goal: int | None, target: str | None) -> str:
    """One sentence: whom rounding saved, and how far it went."""
    exact, rounded = broken(found, "adversarial", goal), broken(found, "rounded", goal)
    end = "the model gets wrong" if target is None else f"the model calls '{target}'"
    lost, gained, left = (int(bits.sum()) for bits in (exact & ~rounded, rounded & ~exact, found["outside"]))
    most = "1/510" if threat.norm == "linf" else f"{HALF_LEVEL * math.sqrt(found['adversarial'][0].size):.3g}"
    farthest, ball = (radius(threat.norm, r) for r in (float(found[f"{threat.norm}/rounded"].max()), threat.eps))
    return (
        f"After rounding to 8 bits {lost} of the {plural(int(exact.sum()), 'adversarial image')} that {end} stopped working and "
        f"{gained} began to; the largest {NORMS[threat.norm]} distance is {farthest}, and "
        f"{left or 'no'} of {plural(len(exact), 'image')} left the ball of {ball}, which rounding may do by up to {most}."
    )


def listed(found: Arrays, classes: Sequence[str], goal: int | None, sources: Mapping[int, str]) -> tuple[ImageEntry, ...]:
    """An entry an image; `sources`: the file of an index, where images came from files."""
    exact, rounded = broken(found, "adversarial", goal), broken(found, "rounded", goal)
    entries = []
    for i, (index, label) in enumerate(zip(found["index"].tolist(), found["label"].tolist(), strict=True)):
        file = f"{shelf_of(classes[label])}/{index}.png"
        entries.append(
            ImageEntry(
                index=index,
                label=classes[label],
                source=sources.get(index),
                clean=f"clean/{file}",
                adversarial=f"adversarial/{file}",
                prediction=Versions(**{name: classes[found[f"prediction/{name}"][i]] for name in Versions.model_fields}),
                distance=_distance(found, "adversarial", i),
                distance_rounded=_distance(found, "rounded", i),
                broken=bool(exact[i]),
                broken_rounded=bool(rounded[i]),
            )
        )
    return tuple(entries)


def shelf_of(name: str) -> str:
    """The folder for the images of a class: its name, without what no file system takes or readers of folders skip."""
    return ("_" + name[1:] if name.startswith(".") else name).replace("/", "_").replace("\0", "_")


def threat_entry(threat: Threat) -> ThreatEntry:
    """A threat, also in words."""
    return ThreatEntry(norm=threat.norm, eps=threat.eps, text=worded(threat.norm, threat.eps))


def store(manifest: Manifest, found: Arrays, folder: Path) -> None:
    """Write `clean/` and `adversarial/`, `images.npz` and `manifest.json` into `folder`."""
    for entry, clean, rounded in zip(manifest.images, found["clean"], found["rounded"], strict=True):
        _save(folder / entry.clean, clean)
        _save(folder / entry.adversarial, rounded)
    write_arrays(folder / "images.npz", {name: found[name] for name in STORED})
    write_json(folder / "manifest.json", {"schema": SCHEMA, **manifest.model_dump(mode="json")})


def _save(file: Path, pixels: NDArray[np.uint8]) -> None:
    """(C, H, W) bytes as a grey or an RGB file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "PNG")


def _distance(found: Arrays, version: str, i: int) -> Distance:
    linf, l2 = (round(float(found[f"{norm}/{version}"][i]), 7) for norm in ("linf", "l2"))
    return Distance(linf=linf, l2=l2)
