"""Scikit-learn's handwritten digits: 1797 grey images of 8x8 pixels that come with the package and need no download.

E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998 (its test part).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from dwf.core.settings import Settings
from dwf.core.types import Images
from dwf.data.decode import Split, assemble
from dwf.data.split import stratified

_TEST = 500
_SEED = 20090  # part of the data set's definition: another number would be another split


class Digits(Settings):
    """1297 training and 500 test images of ten classes, the same ones always."""

    kind: Literal["digits"] = "digits"
    size: int = Field(default=16, ge=8, le=64)
    """Pixels a side, scaled up bilinearly from 8, because the CIFAR ResNets halve the image three times."""

    def __call__(self, split: Split) -> Images:
        """Every image of the split; `index` is the row in scikit-learn's table."""
        from sklearn.datasets import load_digits  # here, because it takes a second that no other data set needs

        table = load_digits()
        grey = np.rint(table.images * (255 / 16)).astype(np.uint8)  # stored as 0 ... 16
        labels = torch.from_numpy(table.target.astype(np.int64))
        rows = stratified(labels, _TEST, _SEED)[split == "test"]
        sized = [np.asarray(Image.fromarray(grey[i]).resize((self.size,) * 2, Image.Resampling.BILINEAR)) for i in rows]
        return assemble(
            np.stack(sized).reshape(-1, self.size, self.size, 1), labels[rows].numpy(), rows.numpy(), list("0123456789"), "digits"
        )
