"""Where images come from, and how they reach a model: `Data` in the settings, a source in it, batches out of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field

from dwf.core.errors import Refused
from dwf.core.files import place
from dwf.core.settings import Settings, nearest
from dwf.core.types import Images
from dwf.data.batches import Epoch, Feed, augment, ordered, specify
from dwf.data.digits import Digits
from dwf.data.folder import SPLITS, Folder
from dwf.data.hub import PLACES, Hub
from dwf.data.parquet import Parquet, holds
from dwf.data.split import stratified, subset

__all__ = ["DATASETS", "Data", "Digits", "Epoch", "Feed", "Folder", "Hub", "Parquet", "Source", "augment", "named", "ordered",
           "specify", "stratified", "subset"]  # fmt: skip

DATASETS: Mapping[str, type[Settings]] = {
    "digits": Digits,
    "folder": Folder,
    "hub": Hub,
    "parquet": Parquet,
}


def named(text: str) -> Source:
    """The source that a word means: `digits`, a data set of the hub, or a folder; raises `ValueError` for anything else."""
    if text == "digits":
        return Digits()
    if text in PLACES:
        return Hub.model_validate({"name": text})
    folder = place(text)
    if os.path.isdir(folder):  # unlike is_dir, it takes a name that is too long for one that is not there
        try:
            below = {item.name for item in folder.iterdir() if item.is_dir()}
        except OSError as error:
            raise ValueError(f"the folder '{text}' cannot be read ({error.strerror}); repair its rights or name another") from None
        if holds(folder):
            return Parquet(path=text)
        if any(word in below for words in SPLITS.values() for word in words):
            return Folder(path=text)
        raise ValueError(f"the folder '{text}' has neither parquet files nor a folder 'train' with one folder for each class")
    raise ValueError(f"there is no data set and no folder '{text}'; {nearest(text, ['digits', *PLACES])}, or the path of a folder")


def _from_text(value: Any) -> Any:
    return named(value) if isinstance(value, str) else value


Source = Annotated[Digits | Folder | Hub | Parquet, Field(discriminator="kind"), BeforeValidator(_from_text)]
"""Settings that return the images of a split. A plain string stands for what `named` makes of it."""


class Data(Settings):
    """Which images to train on, and what is done to them."""

    source: Source = Digits()
    """Where they come from: a table with a `kind`, a name such as "cifar10", or the path of a folder."""
    validation: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of the training set that is held out, every class in its share; selection never sees the test set."""
    crop: int = Field(default=4, ge=0)
    """Random crop: largest shift in pixels, with black moving in."""
    flip: bool = True
    """Mirror half of the images left to right. Switch it off for digits and letters."""
    limit: int | None = Field(default=None, ge=1)
    """For quick trials: only so many images of the training set, every class in its share, before validation is held out."""

    def training(self, seed: int) -> tuple[Images, Images]:
        """(images to train on, images to validate on); raises `Refused` for bad data or too few images of a class."""
        images = self.source("train")
        if self.limit is not None and self.limit < len(images):
            there = len(torch.unique(images.labels))
            images = subset(images, self.limit, seed)
            if (left := len(torch.unique(images.labels))) < there:
                raise Refused(f"data.limit is {self.limit}, which leaves images of {left} classes out of {there}; raise it")
        train, validation = stratified(images.labels, self.validation, seed)
        return images.take(train), images.take(validation)
