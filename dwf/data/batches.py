"""From bytes on the device to batches for a model: whole batches are shuffled, cropped and flipped at once, without workers.

After the loader of cifar10-airbench (K. Jordan, 2024, airbench94_muon.py:118-176), with one change: a sample's crop and flip are a
function of seed, epoch and the sample's index, so they are the same in any batch, order or rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.seeds import Noise, derive
from dwf.core.types import Batch, Images, Spec


def specify(images: Images) -> Spec:
    """Class names, size, and mean and standard deviation of each channel of the given (training) images, in [0, 1]."""
    _, channels, height, width = images.pixels.shape
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(channels):  # a histogram is exact, and needs no floating copy of the data set
        share = torch.bincount(images.pixels[:, channel].flatten(), minlength=256).cpu().double()
        share /= share.sum()
        centre = float((share * levels).sum())
        mean.append(centre)
        std.append(max(float((share * (levels - centre) ** 2).sum()) ** 0.5, 1e-3))  # a constant channel has none to divide by
    return Spec(classes=images.classes, channels=channels, height=height, width=width, mean=tuple(mean), std=tuple(std))


def ordered(images: Images, size: int) -> Iterator[Batch]:
    """All images in their order, `size` at a time, the last batch shorter; nothing is augmented."""
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        x = _floats(images.pixels[part].permute(0, 2, 3, 1).contiguous())
        yield Batch(x, images.labels[part], images.index[part])


class Feed:
    """The training batches of all epochs, on the device of `images`.

    `batch` counts the images of all ranks together. `crop`: largest shift in pixels, with black moving in; `flip`: mirror half of
    the images left to right. `parts`: each rank's share of a batch comes in so many equal pieces, to accumulate gradients over.
    Raises `Refused` for a batch that is larger than the data set or does not divide by ranks * parts.
    """

    def __init__(self, images: Images, batch: int, seed: int, crop: int, flip: bool, *, parts: int = 1) -> None:
        if not 1 <= batch <= len(images):
            raise Refused(f"batch is {batch}, but there are {len(images)} training images; use a batch of 1 to {len(images)}")
        side = min(images.pixels.shape[2:])
        if crop >= side:
            raise Refused(
                f"data.crop is {crop} and the images have {side} pixels a side, which it would shift out of sight; use less"
            )
        if batch % (pieces := ranks.world() * parts):
            raise Refused(f"batch is {batch}, which does not divide by {ranks.world()} ranks times {parts} parts; "
                          f"use a multiple of {pieces}")  # fmt: skip
        self.images, self.batch, self.seed, self.crop, self.flip, self.parts = images, batch, seed, crop, flip, parts

    def epoch(self, number: int, part: int = 0, of: int = 1) -> Epoch:
        """One pass over the images in a new order, each at most once: what does not fill a batch is left out.

        With `of` > 1, only the `part`-th piece of that pass (from 0): all pieces together are the whole pass.
        """
        return Epoch(self, number, part, of)


@dataclass(frozen=True)
class Epoch:
    """Iterates over this rank's batches; may be iterated again, with the same result."""

    feed: Feed
    number: int
    part: int = 0
    of: int = 1

    @property
    def batches(self) -> range:
        """The numbers of the global batches that come."""
        full = len(self.feed.images) // self.feed.batch
        return range(full * self.part // self.of, full * (self.part + 1) // self.of)

    def __len__(self) -> int:
        """How many batches come: full batches of the data set times `parts`."""
        return len(self.batches) * self.feed.parts

    def __iter__(self) -> Iterator[Batch]:
        """x (batch / ranks / parts, C, H, W) and the rest of `Batch`."""
        feed, images = self.feed, self.feed.images
        order = Noise.rows(derive(feed.seed, "order", self.number), len(images), images.labels.device).permutation()
        noise_seed = derive(feed.seed, "augment", self.number)
        for number in self.batches:
            for rows in ranks.share(order[number * feed.batch :][: feed.batch]).chunk(feed.parts):
                index = images.index[rows]
                x = augment(images.pixels[rows], Noise(noise_seed, index), feed.crop, feed.flip)
                yield Batch(x, images.labels[rows], index)


def augment(pixels: Tensor, noise: Noise, crop: int, flip: bool) -> Tensor:
    """pixels (B, C, H, W) uint8 -> float32 in [0, 1], channels_last: shifted by up to `crop` pixels either way, half mirrored."""
    count, channels, height, width = pixels.shape
    draw = noise.uniform((3,))
    top, left = (draw[:, :2] * (2 * crop + 1)).long().unbind(1)
    # Padding and index arithmetic on bytes, channels last: one gather of whole pixels does crop and flip together.
    padded = F.pad(pixels.permute(0, 2, 3, 1), (0, 0, crop, crop, crop, crop))
    tall, wide = height + 2 * crop, width + 2 * crop
    columns = torch.arange(width, device=pixels.device).expand(count, width)
    if flip:
        columns = torch.where(draw[:, 2:] < 0.5, width - 1 - columns, columns)
    first = torch.arange(count, device=pixels.device) * tall + top
    rows = (first[:, None] + torch.arange(height, device=pixels.device)) * wide
    places = rows[:, :, None] + (columns + left[:, None])[:, None, :]
    taken = padded.reshape(-1, channels).index_select(0, places.flatten())
    return _floats(taken.view(count, height, width, channels))


def _floats(pixels: Tensor) -> Tensor:
    """(B, H, W, C) uint8, contiguous -> (B, C, H, W) float32 in [0, 1], channels_last."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
