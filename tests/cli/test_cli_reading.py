"""How images are read can be told to `dwf evaluate`, in the words that its refusals name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_words import SMALL, Dwf
from PIL import Image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Class folders of 8 x 8 pictures, one of them damaged."""
    for label in range(10):
        folder = tmp_path / "pictures" / "test" / str(label)
        folder.mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((8, 8), 20 * label + number, np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "pictures" / "test" / "3" / "1.png").write_bytes(b"torn")
    return tmp_path / "pictures"


def test_a_damaged_picture_is_left_out_where_its_refusal_says(
    dwf: Dwf, refused: Callable[..., str], run_folder: Path, pictures: Path
) -> None:
    words = ["evaluate", run_folder, "--data", pictures, "--device", "cpu", *(word for text in SMALL for word in ("--set", text))]
    sentence = refused(*words)
    assert sentence.endswith("with --set data.source.bad=skip")
    assert dwf(*words, "--set", "data.source.bad=skip").code == 0
    (found,) = (run_folder / "eval").glob("*.json")
    assert json.loads(found.read_text())["dataset"]["n"] == 19
    assert "'source.bad' is 'jump': input should be 'refuse' or 'skip'" in refused(*words, "--set", "data.source.bad=jump")
