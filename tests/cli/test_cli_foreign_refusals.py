"""`dwf evaluate --model`: what cannot be evaluated ends in one sentence and leaves no result."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_words import SMALL, SMALL_NAME, Dwf
from foreign_package import FEW, WORDS
from safetensors.torch import save_file
from torch import nn

from dwf import evaluate_module
from dwf.core.errors import Refused as RefusedError

Refused = Callable[..., str]


@pytest.mark.parametrize(("model", "sentence"), [
    ("theirs.nets:Nan", "theirs.nets:Nan returned NaN or infinite logits for ordinary images"),
    ("theirs.nets:seven", "theirs.nets:seven returned (64, 7) for 64 images of 10 classes, not (64, 10)"),
    ("theirs.nets:Mover", "theirs.nets:Mover keeps 'conv.weight' on meta, and cpu was asked for"),
    ("theirs.nets:Batched", "theirs.nets:Batched in eval mode changes an image's logits by "),
    ("theirs.nets:Trainee", "theirs.nets:Trainee runs in training mode only (RuntimeError: call train() first)"),
    ("theirs.nets:Coloured", "theirs.nets:Coloured fails on images of size (1, 16, 16) on cpu (RuntimeError: "),
    ("theirs.nets:mak", "'theirs.nets' has no 'mak'; did you mean 'make'?"),
    ("theirs.nets:number", "'theirs.nets:number' is a int and cannot be called"),
    ("theirs.nets:broken", "'theirs.nets:broken' raised LookupError: no such file; it is called without arguments"),
    ("theirs.nets:nothing", "'theirs.nets:nothing' returned a str and not a torch.nn.Module"),
    ("theirs.sick:make", "'theirs.sick' cannot be imported (ModuleNotFoundError: No module named 'a_package_that_nobody_has')"),
    ("theirs.nowhere:make", "'theirs.nowhere' cannot be imported (ModuleNotFoundError: No module named 'theirs.nowhere')"),
    ("theirs.nets", "--model 'theirs.nets' is not of the form package.module:factory, timm:NAME or hf-hub:OWNER/NAME"),
    ("theirs/nets.py:make", "--model 'theirs/nets.py:make' is not of the form package.module:factory"),
])  # fmt: skip
def test_what_cannot_be_evaluated(model: str, sentence: str, refused: Refused, package: Path) -> None:
    assert sentence in refused("evaluate", "--model", model, *WORDS)
    assert not (package / "runs").exists()


@pytest.mark.parametrize(("words", "sentence"), [
    (["evaluate"], "neither a run folder nor a model was given; evaluate one of the two"),
    (["evaluate", "runs/x", "--model", "theirs.nets:make"], "both a run folder and a model was given; evaluate one of the two"),
    (["evaluate", "runs/x", "--mean", ".3"], "--mean is for a model from elsewhere, and runs/x is a run folder"),
    (["evaluate", "--model", "theirs.nets:make"], "'theirs.nets:make' does not know its data; name the data set or its folder"),
    (["evaluate", "--model", "theirs.nets:make", *WORDS, "--phase", "joint"], "--phase is for a run that was trained here"),
    (["evaluate", "--model", "theirs.nets:make", *WORDS, "--split", "val"], "--split is for a run that was trained here"),
    (["evaluate", "--model", "theirs.nets:make", *WORDS, "--compile", "always"], "--compile is for a run that was trained here"),
    (["evaluate", "--model", "theirs.nets:make", *WORDS, "--mean", ".3"], "mean and std belong together; give both, or neither"),
    (["evaluate", "--model", "theirs.nets:make", *WORDS, "--mean", "a,b", "--std", "1"], "--mean 'a,b' is not a list of numbers"),
    (["evaluate", "--model", "theirs.nets:make", *WORDS, "--mean", "125", "--std", "60"],
     "mean (125.0,) and std (60.0,) are not of pixels in [0, 1]; divide those of 8-bit pixels by 255"),
    (["evaluate", "--model", "theirs.nets:make", *WORDS, "--mean", ".3", "--std", "0"], "'std.0' is 0.0: "),
    (["evaluate", "--model", "theirs.nets:make", *WORDS, "--mean", ".3,.3", "--std", ".4,.4"],
     "1 channels need as many means and deviations, not 2 and 2"),
    (["evaluate", "--model", "theirs.nets:make", *WORDS, "--samples", "501"], "501 images of digits were asked for"),
    (["evaluate", "--model", "theirs.nets:make", "--data", "digit"], "there is no data set and no folder 'digit'"),
])  # fmt: skip
def test_words_that_do_not_go_together(words: list[str], sentence: str, refused: Refused, package: Path) -> None:
    assert sentence in refused(*words)
    assert not list(package.rglob("eval"))


class _Trap:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return pytest.fail, ("the pickle was opened",)


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Trap()))


def _safetensors(path: Path, **changes: torch.Tensor | None) -> None:
    sys.path.insert(0, str(path.parent))
    import theirs.nets

    weights = {**theirs.nets.make().state_dict(), **changes}
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, path)


@pytest.mark.parametrize(("file", "write", "sentence"), [
    ("w.pt", _pickle, "w.pt is no safetensors file ("),
    ("w.safetensors", _pickle, "and pickles such as .pt and .pth are never opened because they run code; convert it to "),
    ("w.safetensors", lambda path: None, "the weights w.safetensors do not exist; name a .safetensors file"),
    ("w.safetensors", lambda path: path.mkdir(), "w.safetensors is no safetensors file ("),
    ("w.safetensors", lambda path: _safetensors(path, **{"head.bias": None}),
     'the weights w.safetensors do not fit theirs.nets:make: Missing key(s) in state_dict: "head.bias"'),
    ("w.safetensors", lambda path: _safetensors(path, extra=torch.zeros(1)), 'Unexpected key(s) in state_dict: "extra"'),
    ("w.safetensors", lambda path: _safetensors(path, **{"head.bias": torch.zeros(7)}), "size mismatch for head.bias"),
])  # fmt: skip
def test_weights_that_cannot_be_taken(
    file: str, write: Callable[[Path], None], sentence: str, refused: Refused, package: Path
) -> None:
    write(package / file)
    assert sentence in refused("evaluate", "--model", "theirs.nets:make", "--weights", file, *WORDS)


def test_a_folder_belongs_to_one_model(dwf: Dwf, refused: Refused, run_folder: Path, package: Path) -> None:
    words = ["evaluate", "--model", "theirs.nets:make", *WORDS, "--quiet", "--out"]
    assert dwf(*words, "mine2").code == 0
    other = refused("evaluate", "--model", "theirs.nets:make", *WORDS, "--mean", ".3", "--std", ".4", "--out", "mine2")
    assert other == "mine2 belongs to another model or other images (method.mean: None -> [0.3]); choose another folder with --out"
    assert f"{run_folder} belongs to another model or other images (" in refused(*words, run_folder)
    assert dwf(*words, "mine2", "--set", "protocol.eps=0.02").code == 0
    assert len(list(Path("mine2/eval").glob("*.json"))) == 2
    assert refused("evaluate", "mine2", *FEW) == (
        "mine2 holds evaluations of theirs.nets:make, but not its weights; give --model again"
    )
    assert "mine2 already holds a run" in refused("train", "plain-digits", "--out", "mine2")


def test_a_module_that_loses_its_way_under_attack_leaves_no_result(package: Path) -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(256, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(x.flatten(1))
            return logits / (x.amax(dim=(1, 2, 3)) == x.amax(dim=(1, 2, 3)).mul(255).round() / 255).float()[:, None]

    with pytest.raises(RefusedError, match="NaN or infinite logits under attack"):
        evaluate_module(Fragile(), data="digits", name="fragile", overrides=SMALL, samples=20, device="cpu")
    assert not list(package.rglob(f"{SMALL_NAME}.json"))
