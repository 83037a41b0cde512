"""`dwf attack`: adversarial images of a run's test set or of a folder, judged as they are and as 8-bit files hold them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from dwf.attacks import ATTACKS, AnyAttack
from dwf.attacks.engine import project
from dwf.core import heap, ranks
from dwf.core.errors import Refused
from dwf.core.files import place, written_folder
from dwf.core.fingerprint import fingerprint
from dwf.core.overrides import override
from dwf.core.result import DatasetEntry
from dwf.core.seeds import Noise, derive, drawing
from dwf.core.settings import nearest
from dwf.core.types import Attack, Batch, Classifier, Images, Spec, Threat
from dwf.data import Folder, ordered, subset
from dwf.data.decode import Entry, decode
from dwf.data.folder import files_of
from dwf.evaluation.attacked import attacked
from dwf.evaluation.parts import Arrays
from dwf.evaluation.protocol import Watch
from dwf.evaluation.threats import RADII
from dwf.evaluation.victim import Victim
from dwf.evaluation.views import WHOLE, Another
from dwf.models.inference import attack_precision
from dwf.run import Loaded, environment, load
from dwf.training.mover import precision_of
from dwf.verbs.evaluate import others
from dwf.verbs.manifest import Manifest, Origin, listed, noted, shelf_of, store, threat_entry, total
from dwf.verbs.source import of_source, sourced


def attack(
    folder: Path | str,
    attack: str = "pgd",
    *,
    out: Path | str,
    images: Path | str | None = None,
    samples: int | None = None,
    data: str | None = None,
    eps: float | str | None = None,
    norm: Literal["linf", "l2"] | None = None,
    overrides: Sequence[str] = (),
    target: str | None = None,
    surrogate: Path | str | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    batch: int = 250,
    seed: int = 0,
    watch: Watch | None = None,
) -> Manifest:
    """Attack a trained run and write adversarial images, clean ones, exact arrays and a manifest into the new folder `out`.

    What is attacked is either `samples` of the run's test images (a seeded subset, every class in its share) or `images`, a
    folder with a folder of images for each class. `data`: the run's data set in another place, by name or folder. `eps`: 0.03
    or "8/255"; None is 8/255 for Linf and 0.5 for L2. `norm`: None is the attack's own. `overrides`: texts such as
    `attack.steps=20` and, of how images are read, `data.source.size=32`. `target`: a class that is to be reached; its own
    images are left out. `surrogate`: a run folder to make the images on; `folder` judges. `precision` is that of the attack;
    the verdict is always fp32. On one machine's CPU the same call writes the same bytes. Raises `Refused` for bad settings and
    images, an untrained run, and an `out` that is not empty.
    """
    place, where = Path(out), ranks.pick_device(device)
    if (images is None) == (samples is None):
        raise Refused(
            f"{'neither --images nor --samples was' if images is None else 'both --images and --samples were'} given; give one of "
            "them, a folder with a folder of images for each class or a number of the run's own test images"
        )
    if images is not None and data is not None:
        raise Refused("--data says where the run's own test images are, and --images was given; leave one of them out")
    reading, rest = of_source(overrides)
    settings = _read(attack, eps, norm, rest)
    _vacant(place)
    heap.keep()
    with ranks.together(where):
        if ranks.world() > 1:
            raise Refused(f"attack runs in one process and torchrun started {ranks.world()}; start it without torchrun")
    loaded = load(folder, where)
    goal = None if target is None else _label(target, loaded.spec, folder)
    if images is not None:
        chosen, sources, about = _pictures(Path(images), loaded, reading, goal)
    else:
        assert samples is not None
        chosen, about = _drawn(sourced(loaded.run.data, data, reading).source("test"), loaded, samples, seed, goal)
        sources = {}
    helpers = others([] if surrogate is None else [surrogate], chosen, where)
    dtype = precision_of(precision, attack_precision(where))
    with written_folder(place) as beside:  # from here on, so that a place that cannot be written is found before the work
        found = _attacked(Victim(loaded.model, dtype, seed, helpers), _Aimed(settings, goal), chosen.to(where), batch, watch)
        manifest = Manifest(
            model=Origin(run=loaded.run.name, weights=fingerprint(loaded.model)),
            surrogate=next((Origin(run=name, weights=fingerprint(model)) for name, model in helpers.items()), None),
            attack=settings.model_dump(mode="json"),
            threat=threat_entry(settings.threat),
            target=target,
            data=about,
            seed=seed,
            environment=environment(where, str(dtype).removeprefix("torch.")),
            totals=total(found, goal),
            note=noted(found, settings.threat, goal, target),
            images=listed(found, loaded.spec.classes, goal, sources),
        )
        store(manifest, found, beside)
        _vacant(place)  # another process may have been quicker
    return manifest


@dataclass(frozen=True)
class _Aimed:
    """An attack that asks for one class of every image, or for any error."""

    attack: Attack
    goal: int | None

    @property
    def threat(self) -> Threat:
        return self.attack.threat

    def __call__(self, model: Classifier, x: Tensor, y: Tensor, noise: Noise, target: Tensor | None = None) -> Tensor:
        return self.attack(model, x, y, noise, target if self.goal is None else torch.full_like(y, self.goal))


def _read(name: str, eps: float | str | None, norm: str | None, overrides: Sequence[str]) -> AnyAttack:
    """The attack; raises `Refused` for unknown names and keys, and values that do not fit."""
    if name not in ATTACKS:
        raise Refused(f"there is no attack '{name}'; {nearest(name, list(ATTACKS))}")
    kind, where = ATTACKS[name], f"attack '{name}'"
    norm = norm or cast(Attack, kind()).threat.norm
    tables: dict[str, Any] = {"attack": {"threat": {"norm": norm, "eps": RADII.get(norm) if eps is None else eps}}}
    override(tables, overrides)
    table = tables.pop("attack")
    if tables:
        raise Refused(
            "attack changes the attack, as in --set attack.steps=20, and how images are read, as in "
            f"--set data.source.size=32, and no more of '{next(iter(tables))}'; leave it out"
        )
    return cast(AnyAttack, kind.read(table, where=where))


def _vacant(place: Path) -> None:
    if place.exists() and not (place.name and place.is_dir() and not any(place.iterdir())):
        raise Refused(f"{place} is there already and not an empty folder; move it away or choose another folder with --out")


def _label(target: str, spec: Spec, run: Path | str) -> int:
    if target not in spec.classes:
        raise Refused(f"the target '{target}' is no class of {run}; {nearest(target, list(spec.classes))}")
    return spec.classes.index(target)


def _drawn(images: Images, loaded: Loaded, samples: int, seed: int, goal: int | None) -> tuple[Images, DatasetEntry]:
    """A seeded subset of the run's test images."""
    if images.classes != loaded.spec.classes:
        raise Refused(f"the test images of {images.name} have other classes than {loaded.folder.path}; give its own with --data")
    _fitting(images, loaded, hints=False)
    rest = _without(images, goal)
    chosen = subset(rest, samples, derive(seed, "samples"))
    drawn = f"subset of {len(chosen)} of {len(rest)}, every class in its share, seed {seed}"
    return chosen, _entry(chosen, "test", "all" if len(chosen) == len(images) else drawn)


def _pictures(root: Path, loaded: Loaded, reading: Sequence[str], goal: int | None) -> tuple[Images, dict[int, str], DatasetEntry]:
    """The images of a folder of class folders, and the file of each index.

    They are read as the run reads its own, if those are files too. Raises `Refused` for a missing folder, a class that the run does
    not have, bad files, and images of another size or colour than the model's.
    """
    if not (root := place(str(root))).is_dir():
        raise Refused(f"{root} is not a folder; --images needs a folder with a folder of images for each class")
    root = root.resolve()
    own = loaded.run.data.source
    kept = own.model_dump(include={"mode", "size"}) if isinstance(own, Folder) else {}
    tables: dict[str, Any] = {"data": {"source": kept}}
    override(tables, reading)
    how = Folder.read({**tables["data"]["source"], "path": str(root)}, where="data.source of --images")
    shelves = {shelf_of(name): label for label, name in enumerate(loaded.spec.classes)}
    entries = []
    for item in sorted(item for item in root.iterdir() if not item.name.startswith(".")):
        if item.is_dir() and item.name not in shelves:
            raise Refused(f"{item} is no class of {loaded.folder.path}; {nearest(item.name, list(shelves))}")
        entries += [Entry(str(file), file, shelves.get(item.name)) for file in files_of(item)]  # a loose file has no label
    images = decode(entries, loaded.spec.classes, root.name, bad=how.bad, mode=how.mode, size=how.size, fewest=1)
    _fitting(images, loaded, hints=True)
    rest = _without(images, goal)
    sources = {index: str(Path(entries[index].where).relative_to(root)) for index in rest.index.tolist()}
    return rest, sources, _entry(rest, "files", "all" if goal is None else "all but those of the target class")


def _entry(images: Images, split: str, indices: str) -> DatasetEntry:
    return DatasetEntry(name=images.name, split=split, n=len(images), indices=indices, sha256=images.sha256)


def _without(images: Images, goal: int | None) -> Images:
    """The images that are not of the class `goal`: those need no attack to be called it."""
    if goal is None:
        return images
    rest = images.take(torch.nonzero(images.labels != goal).flatten())
    if len(rest) == 0:
        raise Refused(f"all images of {images.name} are of the target class '{images.classes[goal]}'; give images of other classes")
    return rest


def _fitting(images: Images, loaded: Loaded, *, hints: bool) -> None:
    """Raises `Refused` for images that the model does not take; `hints` names the settings that convert files."""
    spec = loaded.spec
    (channels, height, width), wanted = images.pixels.shape[1:], (spec.channels, spec.height, spec.width)
    if (channels, height, width) == wanted:
        return
    colour = f"data.source.mode={'grey' if spec.channels == 1 else 'rgb'}" if channels != spec.channels else None
    size = f"data.source.size={spec.height}" if (height, width) != wanted[1:] and spec.height == spec.width else None
    sets = " ".join(f"--set {text}" for text in (colour, size) if text)
    raise Refused(
        f"the images of {images.name} are {_form(channels, height, width)}, and {loaded.folder.path} takes {_form(*wanted)}; "
        + (f"convert them, as {sets} does" if hints and sets else "give images like those of its training")
    )


def _form(channels: int, height: int, width: int) -> str:
    return f"{width}x{height} {'grey' if channels == 1 else 'RGB'}"


def _attacked(victim: Victim, aimed: _Aimed, images: Images, size: int, watch: Watch | None) -> Arrays:
    """Every image, attacked and judged, `size` at a time: arrays (N, ...) by name."""
    view = Another(next(iter(victim.surrogates))) if victim.surrogates else WHOLE
    parts: list[Arrays] = []
    right, done = Counter[str](), 0
    for batch in ordered(images, size):
        with drawing(derive(victim.seed, "draws", len(parts)), batch.x.device):
            _, moved = attacked(aimed, view, victim, batch, victim.noise(batch), goal=aimed.goal)
            parts.append(part := _judged(victim, batch, project(moved, batch.x, aimed.threat), aimed.threat))
        right.update({name: int((part[f"prediction/{name}"] == part["label"]).sum()) for name in ("clean", "adversarial")})
        done += len(batch.y)
        if watch is not None:
            watch(len(parts), math.ceil(len(images) / size), {name: count / done for name, count in right.items()})
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {**found, "clean": images.pixels.cpu().contiguous().numpy()}


@torch.no_grad()
def _judged(victim: Victim, batch: Batch, adversarial: Tensor, threat: Threat) -> Arrays:
    """What the original makes of a batch, of its attacked images (B, C, H, W), and of these as files hold them."""
    rounded = (adversarial * 255).round().to(torch.uint8)
    versions = {"clean": batch.x, "adversarial": adversarial, "rounded": rounded.to(torch.float32).div_(255)}
    predictions = {f"prediction/{name}": victim.original(x).argmax(1).cpu().numpy() for name, x in versions.items()}
    beyond = (versions["rounded"] - project(versions["rounded"], batch.x, threat)).abs().amax((1, 2, 3))
    distances: Arrays = {}
    for name in ("adversarial", "rounded"):
        change = versions[name].cpu().double() - batch.x.cpu().double()
        distances[f"linf/{name}"] = change.abs().amax((1, 2, 3)).numpy()
        distances[f"l2/{name}"] = torch.linalg.vector_norm(change, dim=(1, 2, 3)).numpy()
    return {
        "index": batch.index.cpu().numpy(),
        "label": batch.y.cpu().numpy(),
        "adversarial": adversarial.cpu().contiguous().numpy(),
        "rounded": rounded.cpu().contiguous().numpy(),
        "outside": (beyond > 1e-6).cpu().numpy(),  # fp32 places a point of the border this exactly
        **predictions,
        **distances,
    }
