"""The presets of data that are not at hand, whole, on a fixture laid out as the hub lays it out: SVHN and Tiny ImageNet.

Nets are small and few, epochs one; optimizers, schedules, threats and data settings are the preset's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pictures import png, write

from dwf import evaluate
from dwf.attacks import Pgd
from dwf.core.settings import Settings
from dwf.data import hub
from dwf.models import Gate, ResNet, Timm
from dwf.run import presets, read
from dwf.training.optim import Recipe
from dwf.verbs import train

CHANGES: dict[type, dict[str, Any]] = {
    Gate: {"hidden": 8},
    Pgd: {"steps": 1},
    Recipe: {"epochs": 1, "batch": 10, "parts": 1},
    ResNet: {"depth": 10, "width": 4},
    Timm: {"pretrained": False, "arguments": {"depth": 1, "embed_dim": 24, "num_heads": 2}},
}
FEWER = {"fgsm": 1, "pgd": 1, "pgd_steps": (1,), "steps": 1, "experts": 2, "replays": 2}
"""Whatever else is large, where a method has it."""
PLACES = {"svhn": ("cropped_digits", ("train", "test", "extra"), 32), "tiny-imagenet": ("data", ("train", "valid"), 64)}
"""Folder, splits and image size at the hub."""
ABSENT = [name for name in presets() if name.endswith(tuple(PLACES))]


def smaller(setting: Settings) -> Settings:
    """The same settings of a net and a training of seconds, checked anew."""
    fields = type(setting).model_fields
    found = {name: smaller(value) for name in fields if isinstance(value := getattr(setting, name), Settings)}
    found |= {name: value for name, value in FEWER.items() if name in fields and not isinstance(getattr(setting, name), Settings)}
    found |= CHANGES.get(type(setting), {})
    kept = {name: getattr(setting, name) for name in setting.model_fields_set if name not in found}
    return type(setting)(**kept, **found)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Repository -> a snapshot of it, whose third split holds what no reader may touch."""
    found = {}
    for name, (folder, splits, side) in PLACES.items():
        root = tmp_path_factory.mktemp(name)
        found[hub.PLACES[name].repository] = root
        (root / folder).mkdir()
        for split in splits:
            file = root / folder / f"{split}-00000-of-00001.parquet"
            if split == "extra":
                file.write_bytes(b"a gigabyte")
                continue
            count = 40 if split == "train" else 12
            write(file, [png(seed, size=(side, side)) for seed in range(count)], [seed % 4 for seed in range(count)])
    return found


@pytest.mark.parametrize("name", ABSENT)
def test_trains_and_is_evaluated_on_data_as_the_hub_has_them(
    name: str, snapshots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "vit" in name:
        pytest.importorskip("timm", reason="the extra timm is not installed")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repository, **_: str(snapshots[repository]))
    run = read(name)
    method = smaller(run.method)
    assert type(method) is type(run.method)
    run = run.model_copy(update={"method": method, "validation": run.validation.model_copy(update={"samples": 4, "steps": 1})})
    train(run, tmp_path, device="cpu")
    few = ("protocol.steps=[1]", "protocol.final=2", "protocol.restarts=1", "protocol.eot=20")
    result = evaluate(tmp_path, "table3", overrides=few, samples=8, device="cpu")
    assert name.endswith(result.dataset.name)
    assert (result.dataset.split, result.dataset.n) == ("test", 8)
