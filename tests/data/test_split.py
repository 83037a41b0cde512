import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import made

from dwf.core.errors import Refused
from dwf.data import stratified, subset

some_labels = st.lists(st.integers(2, 12), min_size=2, max_size=6).map(
    lambda sizes: torch.cat([torch.full((size,), 3 * i) for i, size in enumerate(sizes)])
)


@settings(max_examples=60, deadline=None)
@given(some_labels, st.floats(0.01, 0.49), st.integers(0, 2**40))
def test_split_is_a_partition_with_every_class_in_both(labels: torch.Tensor, share: float, seed: int) -> None:
    train, validation = stratified(labels, share, seed)
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(len(labels)))
    kinds = labels.unique()
    assert torch.equal(labels[train].unique(), kinds)
    assert torch.equal(labels[validation].unique(), kinds)
    kept = stratified(labels, share, seed)
    assert torch.equal(kept[0], train)
    assert torch.equal(kept[1], validation)
    for kind in kinds:  # in proportion, up to rounding and the one image that each class must have
        size = int((labels == kind).sum())
        assert abs(int((labels[validation] == kind).sum()) - size * len(validation) / len(labels)) < len(kinds)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 9))
def test_subset_keeps_the_balance_and_the_index(n: int, seed: int) -> None:
    images = made(40, classes=4)
    part = subset(images, n, seed)
    counts = part.labels.bincount(minlength=4)
    assert len(part) == n
    assert int(counts.max() - counts.min()) <= 1
    assert part.index.tolist() == sorted(set(part.index.tolist()))
    assert torch.equal(part.pixels, images.pixels[(part.index - 1000) // 3])
    assert torch.equal(part.index, subset(images, n, seed).index)


def test_count_and_seed() -> None:
    labels = torch.arange(1000) % 10
    train, validation = stratified(labels, 100, 0)
    assert (len(train), labels[validation].bincount().tolist()) == (900, [10] * 10)
    assert not torch.equal(validation, stratified(labels, 100, 1)[1])


def test_refusals() -> None:
    with pytest.raises(Refused, match=r"^the training set has 1 of at least 2 classes; give a data set with more"):
        stratified(torch.zeros(9).long(), 0.1, 0)
    with pytest.raises(Refused, match=r"^class 4 has a single image, and both training and validation need one; add"):
        stratified(torch.tensor([0, 0, 4]), 0.1, 0)
    for amount in (0, 0.0, 1, 7):
        with pytest.raises(Refused, match=r"images out of 8 leaves no image of some class .* hold out between 2 and 6$"):
            stratified(torch.arange(8) % 2, amount, 0)
    for n in (0, 41):
        with pytest.raises(Refused, match=f"^{n} images of made were asked for, but there are 40; ask for 1 to 40"):
            subset(made(40), n, 0)
