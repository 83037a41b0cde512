"""`dwf evaluate --model`: attack a model that was not trained here, and write the result into a folder of its own."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.files import write_json
from dwf.core.fingerprint import fingerprint
from dwf.core.record import FOREIGN
from dwf.core.result import RUN_SCHEMA, ModelEntry, Result
from dwf.core.types import Images, Routed, Spec
from dwf.data import ordered, specify
from dwf.evaluation.protocol import Watch
from dwf.models.foreign import Foreign, adopt
from dwf.models.inference import attack_precision, faithful
from dwf.run import RunFolder, differences
from dwf.training.mover import precision_of
from dwf.verbs.evaluate import judge, others, read_protocol
from dwf.verbs.finding import Found, find, install, name_of
from dwf.verbs.source import of_source, sourced

PROBES = 64
"""Images, spread over the test split, on which the module shows that it can be judged and its fast copy that it is one."""


def evaluate_module(
    module: nn.Module | str,
    protocol: str = "table3",
    *,
    data: str | Path,
    name: str | None = None,
    weights: Path | str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    samples: int | None = None,
    surrogates: Sequence[Path | str] = (),
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    batch: int = 250,
    seed: int = 0,
    resume: bool = False,
    watch: Watch | None = None,
) -> Result:
    """Attack `module` on the test images of `data` and write `eval/<protocol>.json` in `out` (runs/<name>).

    `module`: (B, C, H, W) -> logits or probabilities (B, classes); it is copied, not changed. Or a text for `finding.find`.
    `data`: a data set by name, or a folder. `weights`: a safetensors file. `mean`, `std`: what the module expects each channel of
    [0, 1] pixels to be standardised by; None gives it the pixels (a pretrained net of timm: what its maker says). The rest is as
    for `evaluate`. Raises `Refused` for what cannot be found, loaded or judged, and for a folder that holds another model.
    """
    where = ranks.pick_device(device)
    if (mean is None) != (std is None):
        raise Refused("mean and std belong together; give both, or neither for a model that takes pixels in [0, 1]")
    with ranks.together(where):
        reading, rest = of_source(overrides)
        settings = read_protocol(protocol, rest)
        source = sourced(None, str(data), reading)
        images = source.source("test")
        spec = specify(images)
        told = module if isinstance(module, str) else f"{type(module).__module__}.{type(module).__qualname__}"
        name = name or (name_of(module) if isinstance(module, str) else type(module).__name__)
        found = _found(module, told, spec, Path(weights) if weights is not None else None)
        if mean is not None and std is not None:
            found = Found(found.module, tuple(map(float, mean)), tuple(map(float, std)))
        spec = _standardised(spec, found)
        model = adopt(found.module, _probe(images, where), len(spec.classes), name=told, spec=None if found.mean is None else spec)
        dtype = faithful(model, precision_of(precision, attack_precision(where))).precision
        about = {
            "kind": FOREIGN,
            "model": told,
            "weights": None if weights is None else Path(weights).name,
            "mean": found.mean and list(found.mean),
            "std": found.std and list(found.std),
            "outputs": "probabilities" if model.probabilities else "logits",
            "fingerprint": fingerprint(model),
            "answers": _answers(model),
        }
        entry = ModelEntry(
            method=FOREIGN,
            settings=about,
            parameters=sum(p.numel() for p in model.parameters()),
            forward_passes=_experts(model),
        )
        record = {
            "schema": RUN_SCHEMA,
            "name": name,
            "settings": {"name": name, "data": source.model_dump(mode="json", include={"source"}), "method": about},
            "seed": seed,
            "spec": spec.model_dump(mode="json"),
            "parameters": entry.parameters,
            "data": {"name": images.name, "sha256": images.sha256},
            "environment": {"device": "elsewhere"},  # of the training; that of an evaluation stands in its result
        }
        place = RunFolder(Path(out) if out is not None else Path("runs") / name)
        with place.locked() if ranks.rank() == 0 else nullcontext():
            if ranks.rank() == 0:
                _claim(place, record)
            return judge(
                model,
                settings,
                images,
                entry,
                place.evaluations,
                run=name,
                split="test",
                deviations=found.std or (1.0,) * spec.channels,
                surrogates=others(surrogates, images, where),
                samples=samples,
                device=where,
                precision=dtype,
                compile="never",  # a stranger's module may do anything in its forward pass
                batch=batch,
                seed=seed,
                resume=resume,
                watch=watch,
            )


def _found(module: nn.Module | str, told: str, spec: Spec, weights: Path | None) -> Found:
    if isinstance(module, str):
        return find(module, channels=spec.channels, classes=len(spec.classes), weights=weights)
    if weights is not None:
        module = copy.deepcopy(module)
        install(module, weights, told)
    return Found(module)


@torch.no_grad()
def _experts(model: Foreign) -> int:
    """As many backbone passes a prediction as it has experts, so far as it shows them."""
    return model.route(model.probe[:1]).weights.shape[1] if isinstance(model, Routed) else 1


@torch.no_grad()
def _answers(model: Foreign) -> str:
    """A checksum of the classes that it names: two models may share their weights and differ in their code."""
    return hashlib.sha256(model(model.probe).argmax(1).cpu().numpy().tobytes()).hexdigest()[:16]


def _standardised(spec: Spec, found: Found) -> Spec:
    """The spec with the mean and std that the module expects, where it expects any."""
    if found.mean is None or found.std is None:
        return spec
    if not all(0 <= m <= 1 for m in found.mean) or not all(s <= 1 for s in found.std):
        raise Refused(f"mean {found.mean} and std {found.std} are not of pixels in [0, 1]; divide those of 8-bit pixels by 255")
    return Spec.read({**spec.model_dump(), "mean": found.mean, "std": found.std}, where="mean and std of the model")


def _probe(images: Images, device: torch.device) -> Tensor:
    """(up to PROBES, C, H, W) float32 in [0, 1], evenly spread, so that classes in sorted files are among them."""
    rows = torch.linspace(0, len(images) - 1, min(PROBES, len(images))).round().long()
    return next(ordered(images.take(rows).to(device), PROBES)).x


def _claim(place: RunFolder, record: Mapping[str, Any]) -> None:
    """Write run.json, or raise `Refused` if it is there already and of another model or other images."""
    if not place.record.exists():
        write_json(place.record, record)
        return
    stored = place.describe()
    old, new = ({"data": one["data"]["sha256"], "method": one["settings"].get("method")} for one in (stored, record))
    if changed := differences(old, new):
        raise Refused(f"{place.path} belongs to another model or other images ({changed[0]}); choose another folder with --out")
