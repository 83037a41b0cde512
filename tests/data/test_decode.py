"""Each kind of bad entry is named by file and row, refused by default, and left out and counted on request."""

import numpy as np
import pytest
from pictures import deep_png, pixels, png

from dwf.core.errors import Refused
from dwf.data.decode import Entry, decode


def _with(bad: bytes | None, label: int | None = 0) -> list[Entry]:
    good = [Entry(f"f.parquet row {i}", png(i), i % 2) for i in range(4)]
    return [*good[:2], Entry("f.parquet row 2", bad, label), *good[2:]]


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(255 - b for b in content[middle : middle + 40]) + content[middle + 40 :]


CASES = {
    "empty": (_with(b""), "is not an image file"),
    "no bytes": (_with(None), "has no image bytes"),
    "text": (_with(b"this is a text"), "is not an image file"),
    "truncated png": (_with(png(9)[:-200]), "is truncated or corrupt"),
    "truncated jpeg": (_with(png(9, form="JPEG")[:-100]), "is truncated or corrupt"),
    "corrupt png": (_with(_flipped(png(9))), "is truncated or corrupt"),
    "grey": (_with(png(9, "L")), "is a grey image where the others are RGB (--set data.source.mode=rgb converts it)"),
    "palette": (_with(png(9, "P")), "is a palette image where the others are RGB"),
    "alpha": (_with(png(9, "RGBA")), "is an alpha image where the others are RGB"),
    "16 bits": (_with(deep_png()), "is a mode-I;16 image of more than 8 bits a pixel"),
    "size": (_with(png(9, size=(13, 12))), "is 13x12 pixels large where the others are 12x12"),
    "no label": (_with(png(9), None), "has no label"),
    "negative": (_with(png(9), -1), "has the label -1, which is negative"),
    "beyond": (_with(png(9), 2), "has the label 2, but the 2 classes end at 1"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_entry(case: str) -> None:
    entries, words = CASES[case]
    with pytest.raises(Refused) as caught:
        decode(entries, ["cat", "dog"], "pets", bad="refuse", mode="auto")
    assert str(caught.value).startswith(f"f.parquet row 2 {words}")
    assert str(caught.value).endswith("repair the data or leave it out with --set data.source.bad=skip")
    images = decode(entries, ["cat", "dog"], "pets", bad="skip", mode="auto")
    assert (images.skipped, images.index.tolist(), images.labels.tolist()) == (1, [0, 1, 3, 4], [0, 1, 0, 1])
    assert np.array_equal(images.pixels[3].permute(1, 2, 0).numpy(), pixels(3))


def test_first_is_named_and_others_are_counted() -> None:
    entries = [*_with(b"junk"), Entry("f.parquet row 5", png(1), -1), Entry("f.parquet row 6", png(1)[:-50], 1)]
    with pytest.raises(
        Refused, match=r"^f.parquet row 2 is not an image file, and 2 more of the 7 entries are bad; .* leave them out"
    ):
        decode(entries, ["cat", "dog"], "pets", bad="refuse", mode="auto")


def test_most_decide_even_if_the_first_is_the_odd_one() -> None:
    entries = [Entry("first", png(9, "L"), 0), *_with(png(9))]
    with pytest.raises(Refused, match=r"^first is a grey image where the others are RGB"):
        decode(entries, ["cat", "dog"], "pets", bad="refuse", mode="auto")


def test_rgb_among_grey() -> None:
    entries = [Entry("row 0", png(0, "L"), 0), Entry("row 1", png(1, "L"), 1), Entry("row 2", png(2), 1)]
    with pytest.raises(Refused, match=r"^row 2 is an RGB image where the others are grey \(--set data.source.mode=grey"):
        decode(entries, ["cat", "dog"], "pets", bad="refuse", mode="auto")


@pytest.mark.parametrize("odd", ["L", "LA", "P", "RGBA", "1", "CMYK"])
@pytest.mark.parametrize(("mode", "channels"), [("rgb", 3), ("grey", 1)])
def test_explicit_mode_converts(odd: str, mode: str, channels: int) -> None:
    form = "JPEG" if odd == "CMYK" else "PNG"
    images = decode(_with(png(9, odd, form=form)), ["cat", "dog"], "pets", bad="refuse", mode=mode)  # type: ignore[arg-type]
    assert images.pixels.shape == (5, channels, 12, 12)
    assert images.skipped == 0


def test_grey_becomes_three_equal_channels() -> None:
    images = decode(_with(png(9, "L")), ["cat", "dog"], "pets", bad="refuse", mode="rgb")
    for channel in range(3):
        assert np.array_equal(images.pixels[2, channel].numpy(), pixels(9, "L"))


def test_size_scales_the_short_side_and_crops_the_centre() -> None:
    entries = [Entry("a", png(0, size=(24, 12)), 0), Entry("b", png(1, size=(9, 40)), 1)]
    images = decode(entries, ["cat", "dog"], "pets", bad="refuse", mode="auto", size=12)
    assert images.pixels.shape == (2, 3, 12, 12)
    assert np.array_equal(images.pixels[0].permute(1, 2, 0).numpy(), pixels(0, size=(24, 12))[:, 6:18])


def test_the_mode_of_most_counts_where_sizes_are_all_different() -> None:
    """Two grey images of one size are no majority among RGB images that no two have one size."""
    entries = [Entry(f"grey {i}", png(i, "L", size=(9, 9)), i) for i in range(2)]
    entries += [Entry(f"rgb {i}", png(i, size=(10 + i, 20)), i % 2) for i in range(6)]
    with pytest.raises(Refused, match=r"^grey 0 is a grey image where the others are RGB .*, and 1 more of the 8 entries are bad"):
        decode(entries, ["cat", "dog"], "pets", bad="refuse", mode="auto", size=8)
    images = decode(entries, ["cat", "dog"], "pets", bad="skip", mode="auto", size=8)
    assert (images.pixels.shape, images.skipped) == ((6, 3, 8, 8), 2)


def test_nothing_good() -> None:
    entries = [Entry(f"row {i}", b"junk", i) for i in range(2)]
    with pytest.raises(Refused, match=r"^pets: none of the 2 entries is an RGB or grey image, beginning with row 0; give encoded"):
        decode(entries, ["cat", "dog"], "pets", bad="skip", mode="auto")
    with pytest.raises(Refused, match=r"^row 0 has the label 7, .* and 1 more of the 2 entries are bad"):
        decode([Entry(f"row {i}", png(i), 7 + i) for i in range(2)], ["cat", "dog"], "pets", bad="skip", mode="auto")


def test_empty_and_one_class() -> None:
    with pytest.raises(Refused, match=r"^pets holds no images; give at least one image of each of 2 classes"):
        decode([], ["cat", "dog"], "pets", bad="refuse", mode="auto")
    with pytest.raises(Refused, match=r"^pets holds 3 images, all of class 'dog', and a classifier needs at least 2 classes"):
        decode([Entry(str(i), png(i), 1) for i in range(3)], ["cat", "dog"], "pets", bad="refuse", mode="auto")


def test_many_files_keep_their_order_and_the_checksum_sees_everything() -> None:
    entries = [Entry(str(i), png(i), i % 2) for i in range(600)]  # more than two tasks
    images = decode(entries, ["cat", "dog"], "pets", bad="refuse", mode="auto")
    assert all(np.array_equal(images.pixels[i].permute(1, 2, 0).numpy(), pixels(i)) for i in (0, 255, 256, 599))
    again = decode(entries, ["cat", "dog"], "pets", bad="refuse", mode="auto")
    assert images.sha256 == again.sha256
    swapped = [entries[1], entries[0], *entries[2:]]
    assert decode(swapped, ["cat", "dog"], "pets", bad="refuse", mode="auto").sha256 != images.sha256
