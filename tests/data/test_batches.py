import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import made

from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.seeds import Noise, derive
from dwf.data import Feed, augment, ordered, specify


def _slow(image: torch.Tensor, noise: Noise, crop: int, flip: bool) -> torch.Tensor:
    """One image (C, H, W) uint8: pad, mirror, cut; the same draws, written down once more."""
    down, right, mirror = noise.uniform((3,))[0].tolist()
    top, left = int(down * (2 * crop + 1)), int(right * (2 * crop + 1))
    padded = np.pad(image.numpy(), ((0, 0), (crop, crop), (crop, crop)))
    cut = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return torch.from_numpy((cut[:, :, ::-1] if flip and mirror < 0.5 else cut).copy()).float() / 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("crop", "flip"), [(0, False), (0, True), (2, False), (4, True)])
def test_augmentation_against_a_slow_one(channels: int, crop: int, flip: bool) -> None:
    images = made(40, channels=channels)
    noise = Noise(7, images.index)
    x = augment(images.pixels, noise, crop, flip)
    assert x.is_contiguous(memory_format=torch.channels_last)
    for i in range(len(images)):
        assert torch.equal(x[i], _slow(images.pixels[i], noise.take(torch.tensor([i])), crop, flip))
    if (crop, flip) == (0, False):
        assert torch.equal(x, images.pixels.float() / 255)


def test_all_shifts_occur_and_half_are_mirrored() -> None:
    marked = torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    marked[:, :, 4, 4] = 255
    x = augment(marked, Noise.rows(3, 4000), 2, False)
    places = {tuple(divmod(int(p), 9)) for p in x.flatten(1).argmax(1)}
    assert places == {(i, j) for i in range(2, 7) for j in range(2, 7)}
    left = torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    left[..., 0] = 255
    assert 0.45 < float(augment(left, Noise.rows(3, 4000), 0, True)[:, 0, 0, 0].mean()) < 0.55


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 60), st.data())
def test_every_sample_at_most_once_and_the_same_in_any_batch(count: int, data: st.DataObject) -> None:
    images = made(count)
    batch = data.draw(st.integers(1, count))
    number = data.draw(st.integers(0, 5))
    epoch = Feed(images, batch, 11, 2, True).epoch(number)
    batches = list(epoch)
    assert len(batches) == len(epoch) == count // batch
    index = torch.cat([b.index for b in batches])
    assert len(index.unique()) == len(index) == count // batch * batch
    alone = augment(images.pixels, Noise(derive(11, "augment", number), images.index), 2, True)
    for b in batches:
        assert torch.equal(b.x, alone[(b.index - 1000) // 3])
        assert torch.equal(b.y, images.labels[(b.index - 1000) // 3])
    assert all(torch.equal(a.x, b.x) for a, b in zip(batches, epoch, strict=True))


def test_a_subset_in_another_order_gets_the_same_crops() -> None:
    images = made(32)
    seen = {int(i): x for b in Feed(images, 8, 0, 3, True).epoch(2) for i, x in zip(b.index, b.x, strict=True)}
    part = images.take(torch.tensor([30, 2, 17, 5]))
    for b in Feed(part, 2, 0, 3, True).epoch(2):
        assert all(torch.equal(x, seen[int(i)]) for i, x in zip(b.index, b.x, strict=True))


def test_epochs_and_seeds_differ() -> None:
    images = made(64)
    first = next(iter(Feed(images, 64, 0, 2, True).epoch(0)))
    for other in (Feed(images, 64, 0, 2, True).epoch(1), Feed(images, 64, 1, 2, True).epoch(0)):
        b = next(iter(other))
        assert not torch.equal(b.index, first.index)
        assert not torch.equal(b.x[b.index.argsort()], first.x[first.index.argsort()])


def test_ranks_and_parts_share_the_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    images = made(50)
    whole = list(Feed(images, 16, 5, 2, True).epoch(3))
    monkeypatch.setattr(ranks, "world", lambda: 2)
    pieces = []
    for rank in (0, 1):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        epoch = Feed(images, 16, 5, 2, True, parts=4).epoch(3)
        pieces.append(list(epoch))
        assert len(epoch) == len(pieces[-1]) == 3 * 4
        assert all(b.x.shape == (2, 3, 8, 8) for b in pieces[-1])
    for step, b in enumerate(whole):
        parts = [part for mine in pieces for part in mine[4 * step : 4 * step + 4]]
        assert torch.equal(torch.cat([part.x for part in parts]), b.x)
        assert torch.equal(torch.cat([part.y for part in parts]), b.y)


def test_refusals() -> None:
    with pytest.raises(Refused, match=r"^batch is 51, but there are 50 training images; use a batch of 1 to 50$"):
        Feed(made(50), 51, 0, 2, True)
    with pytest.raises(Refused, match=r"^batch is 10, which does not divide by 1 ranks times 4 parts; use a multiple of 4$"):
        Feed(made(50), 10, 0, 2, True, parts=4)


def test_ordered_keeps_order_and_the_last_batch() -> None:
    images = made(10)
    batches = list(ordered(images, 4))
    assert [len(b.y) for b in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([b.x for b in batches]), images.pixels.float() / 255)
    assert torch.equal(torch.cat([b.index for b in batches]), images.index)
    assert all(b.x.is_contiguous(memory_format=torch.channels_last) for b in batches)
    assert all(b.x.dtype == torch.float32 for b in batches)


def test_layout_of_the_bytes_does_not_matter() -> None:
    images = made(10)
    packed = dataclasses.replace(images, pixels=images.pixels.contiguous())
    for mine, other in (
        (ordered(images, 4), ordered(packed, 4)),
        (Feed(images, 4, 0, 2, True).epoch(0), Feed(packed, 4, 0, 2, True).epoch(0)),
    ):
        assert all(torch.equal(a.x, b.x) for a, b in zip(mine, other, strict=True))


def test_specify() -> None:
    images = made(50)
    spec = specify(images)
    x = images.pixels.double() / 255
    assert (spec.classes, spec.channels, spec.height, spec.width) == (("c0", "c1"), 3, 8, 8)
    assert spec.mean == pytest.approx(x.mean((0, 2, 3)).tolist())
    assert spec.std == pytest.approx(x.std((0, 2, 3), correction=0).tolist())
    images.pixels.zero_()
    assert specify(images).std == (1e-3, 1e-3, 1e-3)
