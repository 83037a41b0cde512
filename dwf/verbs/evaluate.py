"""`dwf evaluate`: attack what a run trained, and write the result beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from dwf.core import heap, ranks
from dwf.core.errors import Refused
from dwf.core.overrides import override
from dwf.core.result import DatasetEntry, ModelEntry, Result, called
from dwf.core.seeds import derive
from dwf.core.settings import nearest
from dwf.core.types import Batch, Compile, Images
from dwf.data import Data, ordered, subset
from dwf.evaluation import PROTOCOLS, AnyTable
from dwf.evaluation.protocol import Watch
from dwf.evaluation.protocol import evaluate as evaluate_model
from dwf.evaluation.tabulate import Subject
from dwf.models import ExpertBank
from dwf.models.compiled import pays
from dwf.models.cost import multiply_adds
from dwf.models.inference import attack_precision
from dwf.run import Loaded, RunFolder, environment, load, package_version
from dwf.training.mover import precision_of
from dwf.verbs.reconsidered import of_method, reconsidered
from dwf.verbs.source import of_source, sourced

ENOUGH_TO_COMPILE = 5e9
"""Multiply-adds of one forward pass of all images. A protocol asks for two hundred and more: half a minute of one core."""


def evaluate(
    folder: Path | str,
    protocol: str = "table3",
    *,
    phase: str | None = None,
    data: str | None = None,
    overrides: Sequence[str] = (),
    samples: int | None = None,
    split: Literal["test", "val"] = "test",
    surrogates: Sequence[Path | str] = (),
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    compile: Compile = "auto",
    batch: int = 250,
    seed: int = 0,
    resume: bool = False,
    watch: Watch | None = None,
) -> Result:
    """Attack a trained run and write `eval/<protocol>.json` in its folder.

    `phase`: attack what this phase made, by itself, and write into phases/<phase>/eval. `data`: the run's data set in another
    place, by name or folder. `overrides`: texts such as `protocol.eps=0.02`, `data.source.bad=skip`, or `method.alpha=0.9`
    where the method lets it change after training; the result then goes into a file of its own. `samples`: a seeded subset with
    every class in its share; None takes all. `split`: "val" is the part of the training set that the run held out.
    `surrogates`: other run folders, whose adversarial images are tried here. `precision` is that of the attacks, and `compile`
    is about their code; the verdict is always fp32 and not compiled. Raises `Refused` for bad settings, an untrained run, or a
    result that is there already.
    """
    where = ranks.pick_device(device)
    with ranks.together(where):
        changes, rest = of_method(overrides)
        reading, rest = of_source(rest)
        settings = read_protocol(protocol, rest)
        loaded, overridden = reconsidered(load(folder, where, phase), changes, phase)
        record = RunFolder(Path(folder)).describe()
        images = _images(loaded, sourced(loaded.run.data, data, reading), split, record["data"]["sha256"])
        entry = ModelEntry(
            method=loaded.run.method.kind,
            settings=loaded.run.method.model_dump(mode="json"),
            parameters=sum(p.numel() for p in loaded.model.parameters()),
            forward_passes=forward_passes(loaded.model),
            overridden=overridden,
        )
        with RunFolder(Path(folder)).locked() if ranks.rank() == 0 else nullcontext():
            return judge(
                loaded.model,
                settings,
                images,
                entry,
                loaded.folder.evaluations,
                run=called(f"{loaded.run.name} {phase or ''}".strip(), overridden),
                split=split,
                deviations=loaded.spec.std,
                surrogates=others(surrogates, images, where),
                samples=samples,
                device=where,
                precision=precision_of(precision, attack_precision(where)),
                compile=compile,
                batch=batch,
                seed=seed,
                resume=resume or ranks.restarted(),
                watch=watch,
            )


def judge(
    model: nn.Module,
    settings: AnyTable,
    images: Images,
    entry: ModelEntry,
    folder: Path,
    *,
    run: str,
    split: str,
    deviations: tuple[float, ...],
    surrogates: Mapping[str, nn.Module],
    samples: int | None,
    device: torch.device,
    precision: torch.dtype,
    compile: Compile,
    batch: int,
    seed: int,
    resume: bool,
    watch: Watch | None,
) -> Result:
    """Attack `model`, which `entry` describes, on `images` of `split` and write the result in `folder`: how evaluations end.

    `deviations`: by which the model divides each channel. `surrogates`: other models by name. The caller holds the lock of the run
    folder. Raises `Refused` for more samples than images and a result that is there already.
    """
    heap.keep()
    total = len(images)
    if samples is not None:
        images = subset(images, samples, derive(seed, "samples"))
    images = images.to(device)
    subject = Subject(
        run=run,
        model=entry,
        dataset=DatasetEntry(
            name=images.name,
            split=split,
            n=len(images),
            indices="all" if len(images) == total else f"subset of {len(images)} of {total}, every class in its share, seed {seed}",
            sha256=images.sha256,
        ),
        classes=images.classes,
        device=environment(device, "")["device"],
        versions=(package_version(), torch.__version__),
        deviations=deviations,
    )
    batches = list(ordered(images, batch))
    work = partial(_work, model, batches)
    if compiled := pays(compile, work, ENOUGH_TO_COMPILE, device):
        torch.compiler.reset()
    return evaluate_model(
        model,
        settings,
        batches,
        subject,
        folder,
        surrogates=surrogates,
        precision=precision,
        compiled=compiled,
        seed=seed,
        resume=resume,
        watch=watch,
    )


def _work(model: nn.Module, batches: Sequence[Batch]) -> float:
    """Multiply-adds of one forward pass of every image."""
    return multiply_adds(model, batches[0].x[:1]) * sum(len(batch.y) for batch in batches)


def others(folders: Sequence[Path | str], images: Images, device: torch.device) -> dict[str, nn.Module]:
    """The models of other run folders by name, to transfer from; raises `Refused` for one that does not fit the images."""
    found: dict[str, nn.Module] = {}
    for folder in folders:
        loaded = load(folder, device)
        spec = loaded.spec
        shape = (spec.channels, spec.height, spec.width)
        if shape != tuple(images.pixels.shape[1:]) or spec.classes != images.classes:
            raise Refused(
                f"surrogate {folder} takes {_said(shape, spec.classes, images.classes)}, and {images.name} has "
                f"{_said(tuple(images.pixels.shape[1:]), images.classes, spec.classes)}; name a run on the same data"
            )
        found[loaded.run.name if loaded.run.name not in found else str(folder)] = loaded.model
    return found


def forward_passes(model: nn.Module) -> int:
    """Backbone passes that one prediction costs, as far as the model shows."""
    bank = getattr(model, "bank", None)
    return len(bank) if isinstance(bank, ExpertBank) else 1


def read_protocol(name: str, overrides: Sequence[str] = ()) -> AnyTable:
    """The settings of a protocol, changed by `protocol.a=b` texts; raises `Refused` for unknown names and keys."""
    if name not in PROTOCOLS:
        raise Refused(f"there is no protocol '{name}'; {nearest(name, list(PROTOCOLS))}")
    data: dict[str, Any] = {"protocol": {}}
    override(data, overrides)
    if set(data) != {"protocol"}:
        raise Refused(
            f"evaluate takes protocol.a=b, data.source.a=b and, for what may change after training, method.a=b, "
            f"not '{next(k for k in data if k != 'protocol')}'"
        )
    return cast(AnyTable, PROTOCOLS[name].read(data["protocol"], where=f"protocol '{name}'"))


def _images(loaded: Loaded, data: Data, split: str, trained_on: str) -> Images:
    """The images to judge by. Raises `Refused` if the training set is not the one that the validation images were held out of."""
    if split == "test":
        images = data.source("test")
    else:
        images = data.training(derive(loaded.run.seed, "split"))[1]
        if images.sha256 != trained_on:
            raise Refused(
                f"the training images of {images.name} are not those of {loaded.folder.path}; give the same data with --data"
            )
    shape, wanted = tuple(images.pixels.shape[1:]), (loaded.spec.channels, loaded.spec.height, loaded.spec.width)
    if shape != wanted or images.classes != loaded.spec.classes:
        raise Refused(
            f"the {split} split has {_said(shape, images.classes, loaded.spec.classes)}, and the model needs "
            f"{_said(wanted, loaded.spec.classes, images.classes)}; give the data that it was trained on with --data"
        )
    return images


def _said(shape: tuple[int, ...], classes: Sequence[str], others: Sequence[str]) -> str:
    """`(1, 8, 8) of 10 classes`, with the first name that `others` has not in its place."""
    first = next((f", '{name}' among them" for name, other in zip(classes, others, strict=False) if name != other), "")
    return f"images {shape} of {len(classes)} classes{first}"
