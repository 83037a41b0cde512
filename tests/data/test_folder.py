import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import pixels, png

from dwf.core.errors import Refused
from dwf.data import Folder, folder


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i}.png").write_bytes(png(10 * label + i))
    return root


def _source(root: Path, **settings: object) -> Folder:
    return Folder.model_validate({"path": str(root), **settings})


def _decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how many files every decoding had."""
    seen: list[int] = []
    original = folder.decode

    def counting(entries: list[object], *args: object, **settings: object) -> object:
        seen.append(len(entries))
        return original(entries, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(folder, "decode", counting)
    return seen


def test_reads_both_splits(pets: Path) -> None:
    train, test = _source(pets)("train"), _source(pets)("test")
    assert (train.classes, train.labels.tolist(), test.labels.tolist()) == (("cat", "dog"), [0, 0, 0, 1, 1, 1], [0, 0, 1, 1])
    assert np.array_equal(train.pixels[4].permute(1, 2, 0).numpy(), pixels(11))
    assert train.name == "pets"


def test_decoded_once_and_mapped(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _decodings(monkeypatch)
    first, second = _source(pets)("train"), _source(pets)("train")
    assert seen == [6]
    assert torch.equal(first.pixels, second.pixels)
    assert (first.sha256, first.classes, first.index.tolist()) == (second.sha256, second.classes, second.index.tolist())
    second.pixels.zero_()  # a private copy: what is on the disc stays
    assert torch.equal(_source(pets)("train").pixels, first.pixels)


def test_any_change_decodes_anew_and_sweeps_the_old(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _decodings(monkeypatch)
    _source(pets)("train")
    file = pets / "train" / "cat" / "1.png"
    file.write_bytes(png(77))
    os.utime(file, ns=(1, 1))
    images = _source(pets)("train")
    assert np.array_equal(images.pixels[1].permute(1, 2, 0).numpy(), pixels(77))
    file.unlink()
    assert len(_source(pets)("train")) == 5
    assert seen == [6, 6, 5]
    assert len(list((pets / ".dwf-cache").iterdir())) == 1


def test_other_settings_have_their_own_array(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _decodings(monkeypatch)
    assert _source(pets, size=6)("train").pixels.shape == (6, 3, 6, 6)
    assert _source(pets, mode="grey")("train").pixels.shape == (6, 1, 12, 12)
    assert _source(pets, size=6)("train").pixels.shape == (6, 3, 6, 6)
    assert seen == [6, 6]


def test_damaged_cache_is_made_again(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _decodings(monkeypatch)
    before = _source(pets)("train").pixels.clone()
    (stored,) = (pets / ".dwf-cache").glob("*/pixels.npy")
    stored.write_bytes(stored.read_bytes()[:-10])
    assert torch.equal(_source(pets)("train").pixels, before)
    assert seen == [6, 6]


@pytest.mark.parametrize(("file", "content"), [("pixels.npy", b""), ("meta.json", b"[]"), ("rows.npy", b"")])
def test_an_emptied_cache_is_made_again(file: str, content: bytes, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _decodings(monkeypatch)
    _source(pets)("train")
    (stored,) = (pets / ".dwf-cache").glob(f"*/{file}")
    stored.write_bytes(content)
    assert len(_source(pets)("train")) == 6
    assert seen == [6, 6]


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOSPC])
def test_images_are_there_though_nothing_can_be_kept(number: int, pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr("dwf.core.files.os.rename", refuse)
    assert len(_source(pets)("train")) == 6


def test_names_that_are_no_utf_8_and_linked_folders_are_read(pets: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(png(20))
    (pets / "train" / "dog" / "more").symlink_to(elsewhere)
    (pets / "train" / "dog" / "again").symlink_to(pets / "train" / "dog")
    (pets / "train" / "dog" / os.fsdecode(b"\xff.png")).write_bytes(png(21))
    assert len(_source(pets)("train")) == 8


def test_unwritable_folder_uses_the_users_cache(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pets / ".dwf-cache").write_text("a file where the folder would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen = _decodings(monkeypatch)
    assert len(_source(pets)("train")) == len(_source(pets)("train")) == 6
    assert seen == [6]
    assert list((tmp_path / "cache" / "dwf").glob("*/train-*/pixels.npy"))


def test_nothing_writable_still_reads(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pets / ".dwf-cache").write_text("")
    (tmp_path / "cache").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert len(_source(pets)("train")) == 6


def test_bad_files_are_named_by_path(pets: Path) -> None:
    (pets / "train" / "dog" / "9.png").write_bytes(png(3)[:-60])
    (pets / "train" / "readme.txt").write_text("hello")
    (pets / "train" / ".hidden").write_text("hello")
    with pytest.raises(Refused, match=r"pets/train/dog/9.png is truncated or corrupt .*, and 1 more of the 8 entries are bad; "):
        _source(pets)("train")
    images = _source(pets, bad="skip")("train")
    assert (len(images), images.skipped) == (6, 2)
    assert _source(pets, bad="skip")("train").skipped == 2


def test_sizes_differ(pets: Path) -> None:
    (pets / "train" / "dog" / "9.png").write_bytes(png(3, size=(20, 16)))
    with pytest.raises(Refused, match=r"pets/train/dog/9.png is 20x16 pixels large where the others are 12x12"):
        _source(pets)("train")
    assert _source(pets, size=8)("train").pixels.shape == (7, 3, 8, 8)


def test_missing_folders(pets: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"has no train images: looked for a folder train with one folder for each class"):
        _source(tmp_path)("train")
    with pytest.raises(Refused, match="looked for a folder test or validation or valid or val with one folder"):
        _source(tmp_path)("test")
    (pets / "val" / "emu").mkdir()
    with pytest.raises(Refused, match=r"val/emu is a class that the training set does not have; its classes are cat, dog"):
        _source(pets)("test")
