"""`dwf attack --images`: a folder of pictures is read as the run reads its own, or refused in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from attack_files import CPU, read
from cli_words import Dwf
from PIL import Image

Sentence = Callable[..., str]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of the run, two grey images of 8x8 pixels each."""
    for name in ("3", "7"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(2):
            _draw(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def _draw(file: Path, shape: tuple[int, ...] = (8, 8)) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).save(file)


def test_pictures_are_converted_on_demand(dwf: Dwf, refused: Sentence, run_folder: Path, pictures: Path) -> None:
    for file in pictures.rglob("*.png"):
        _draw(file, (12, 10, 3))
    words = ("attack", run_folder, "--images", pictures, "--out", "made", *CPU)
    assert refused(*words) == (
        f"the images of pictures are 10x12 RGB, and {run_folder} takes 8x8 grey; convert them, as "
        "--set data.source.mode=grey --set data.source.size=8 does"
    )
    assert dwf(*words, "--set", "data.source.mode=grey", "--set", "data.source.size=8").code == 0
    assert read(Path("made"))[1]["adversarial"].shape == (4, 1, 8, 8)


def test_bad_pictures_are_named(dwf: Dwf, refused: Sentence, run_folder: Path, pictures: Path) -> None:
    words = ("attack", run_folder, "--images", pictures, "--out", "made", *CPU)
    elsewhere = ("attack", run_folder, "--images", pictures, "--out", "other", *CPU)
    bad = pictures / "7" / "2.png"
    bad.write_bytes((pictures / "7" / "1.png").read_bytes()[:-30])
    assert f"{bad} is truncated or corrupt (" in refused(*words)
    bad.write_text("hello")
    assert refused(*words) == f"{bad} is not an image file; repair the data or leave it out with --set data.source.bad=skip"
    assert dwf(*words, "--set", "data.source.bad=skip").code == 0
    assert {entry["source"] for entry in read(Path("made"))[0]["images"]} == {"3/0.png", "3/1.png", "7/0.png", "7/1.png"}
    bad.unlink()
    _draw(bad, (9, 8))
    assert f"{bad} is 8x9 pixels large where the others are 8x8" in refused(*elsewhere)
    bad.unlink()
    _draw(pictures / "loose.png")
    assert f"{pictures / 'loose.png'} has no label" in refused(*elsewhere)


def test_pictures_of_a_class_that_the_run_does_not_have(refused: Sentence, run_folder: Path, pictures: Path) -> None:
    (pictures / "77").mkdir()
    assert refused("attack", run_folder, "--images", pictures, "--out", "made") == (
        f"{pictures / '77'} is no class of {run_folder}; did you mean '7'? Valid: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    )


def test_pictures_of_the_target_alone(refused: Sentence, run_folder: Path, pictures: Path) -> None:
    shutil.rmtree(pictures / "7")
    (pictures / "8").mkdir()
    sentence = refused("attack", run_folder, "--images", pictures, "--target", "3", "--out", "made")
    assert "class '3'" in sentence
    shutil.rmtree(pictures / "3")
    assert "pictures holds no images" in refused("attack", run_folder, "--images", pictures, "--out", "made")


def test_a_single_picture_can_be_attacked(dwf: Dwf, run_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one" / "7"
    folder.mkdir(parents=True)
    Image.new("L", (8, 8), 120).save(folder / "seven.png")
    assert dwf("attack", run_folder, "--images", folder.parent, "--device", "cpu", "--out", "made").code == 0
    assert len([*(tmp_path / "made" / "adversarial").rglob("*.png")]) == 1


@pytest.mark.parametrize(("words", "sentence"), [
    ([], "neither --images nor --samples was given; give one of them, a folder with a folder of images for each class or a number "
         "of the run's own test images"),
    (["--images", "nowhere"], "nowhere is not a folder; --images needs a folder with a folder of images for each class"),
    (["--images", ".", "--set", "data.flip=false"], "and no more of 'data'; leave it out"),
    (["--images", ".", "--set", "data=3"], "and no more of 'data'; leave it out"),
    (["--images", ".", "--set", "data.source.sizes=8"], "data.source of --images: 'sizes' is not a setting; did you mean 'size'?"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip
def test_bad_images(words: list[str], sentence: str, refused: Sentence, run_folder: Path) -> None:
    assert sentence in refused("attack", run_folder, "--out", "made", *words)
