"""The files that `dwf attack` writes and reads, and the words that make it quick."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

CPU = ("--device", "cpu", "--quiet")
SOME = ("--samples", 40, *CPU)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The manifest and the arrays."""
    with np.load(folder / "images.npz", allow_pickle=False) as stored:
        return json.loads((folder / "manifest.json").read_text()), {name: stored[name] for name in stored.files}


def files(folder: Path) -> dict[str, bytes]:
    """Name -> content, of every file below."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def change_weights(run: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Another model in the same run folder."""
    file = run / "model.safetensors"
    save_file({name: change(tensor) for name, tensor in load_file(file).items()}, file)
