"""`dwf attack`: bad input ends in one sentence before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from attack_files import SOME, change_weights, files

from dwf import attack
from dwf.core.errors import Refused

Sentence = Callable[..., str]


@pytest.mark.parametrize(("words", "sentence"), [
    (["--attack", "pdg"], "there is no attack 'pdg'; did you mean 'pgd'? Valid: apgd-ce, "),
    (["--eps", "8"], "it is a share of the pixel range and must be below 1; for 8-bit steps write '8/255'"),
    (["--eps", "much"], "'threat.eps' is 'much': give a number like 0.031 or a fraction like '8/255'"),
    (["--eps", "-1/255"], "'threat.eps' is '-1/255': it must be at least 0 and finite"),
    (["--attack", "carlini-wagner", "--norm", "linf"],
     "attack 'carlini-wagner': threat.norm is 'linf' and carlini-wagner minimises the L2 length; set it to 'l2' or use pgd"),
    (["--set", "attack.step_size=0.1"], "attack 'pgd': 'step_size' is not a setting; did you mean 'steps'? Valid: "),
    (["--set", "attack.steps=0"], "attack 'pgd': 'steps' is 0: "),
    (["--set", "attack.kind=fgsm"], "attack 'pgd': 'kind' is 'fgsm': input should be 'pgd'"),
    (["--set", "attack=3"], "attack 'pgd': 'the whole' is 3: "),
    (["--set", "attack.threat=3"], "attack 'pgd': 'threat' is 3: "),
    (["--set", "attack"], "--set 'attack' is not of the form a.b=value"),
    (["--set", "protocol.eps=0.1"],
     "attack changes the attack, as in --set attack.steps=20, and how images are read, as in "
     "--set data.source.size=32, and no more of 'protocol'; leave it out"),
    (["--set", "data.limit=32"], "and no more of 'data'; leave it out"),
    (["--set", "data.source.size=32"], "the images of digits are 32x32 grey, and "),
    (["--data", "nowhere"], "there is no data set and no folder 'nowhere'; Valid: cifar10, "),
    (["--target", "cat"], "the target 'cat' is no class of "),
    (["--samples", 501], "501 images of digits were asked for, but there are 500; ask for 1 to 500"),
    (["--images", "."], "both --images and --samples were given; give one of them, a folder with a folder of images for each "),
    (["--device", "quantum"], "device 'quantum' is not available here"),
    (["--surrogate", "nowhere"], "run folder nowhere does not exist; train one with: dwf train PRESET --out nowhere"),
], ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "")  # fmt: skip
def test_bad_words_for_an_attack(words: list[object], sentence: str, refused: Sentence, run_folder: Path) -> None:
    assert sentence in refused("attack", run_folder, *SOME, "--out", "made", *words)
    assert list(Path().iterdir()) == [Path(run_folder.name)], "nothing was begun"


def test_data_of_the_runs_own_have_no_say_in_other_images(refused: Sentence, run_folder: Path) -> None:
    words = ["attack", run_folder, "--images", ".", "--data", "digits", "--out", "made"]
    assert refused(*words) == ("--data says where the run's own test images are, and --images was given; leave one of them out")


def test_a_run_that_is_not_there(refused: Sentence) -> None:
    assert refused("attack", "nowhere", *SOME, "--out", "made") == (
        "run folder nowhere does not exist; train one with: dwf train PRESET --out nowhere"
    )


def test_a_place_that_is_taken_or_cannot_be_written(refused: Sentence, run_folder: Path) -> None:
    before = files(run_folder)
    for out in (run_folder, run_folder / "run.json"):
        assert refused("attack", run_folder, *SOME, "--out", out) == (
            f"{out} is there already and not an empty folder; move it away or choose another folder with --out"
        )
    assert "is there already and not an empty folder" in refused("attack", run_folder, *SOME, "--out", ".")
    below = run_folder / "run.json" / "made"
    assert (
        refused("attack", run_folder, *SOME, "--out", below) == f"{below} cannot be written (Not a directory); choose another place"
    )
    assert files(run_folder) == before


def test_a_model_that_answers_nan_leaves_nothing_behind(refused: Sentence, run_folder: Path, tmp_path: Path) -> None:
    change_weights(run_folder, lambda tensor: tensor * torch.nan if tensor.is_floating_point() else tensor)
    assert "the model returned NaN or infinite logits under attack" in refused("attack", run_folder, *SOME, "--out", "made")
    assert list(tmp_path.iterdir()) == [run_folder]


def test_only_one_process_attacks(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwf.core.ranks.world", lambda: 2)
    with pytest.raises(Refused, match="attack runs in one process and torchrun started 2; start it without torchrun"):
        attack(run_folder, out=tmp_path / "made", samples=5, device="cpu")
