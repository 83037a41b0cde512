"""`dwf evaluate --model timm:NAME` and `hf-hub:OWNER/NAME`: a net that timm makes, or the sentence that says why not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_words import SMALL, SMALL_NAME, Dwf
from foreign_package import WORDS
from safetensors.torch import save_file
from torch import nn

from dwf import evaluate_module

Refused = Callable[..., str]


def test_a_net_of_timm_by_name(dwf: Dwf, package: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", pretrained=False, num_classes=10, in_chans=1)
    save_file(net.state_dict(), package / "w.safetensors")
    words = ["evaluate", "--model", "timm:resnet10t", "--weights", "w.safetensors", "--mean", ".3", "--std", ".4"]
    code, _, err = dwf(*words, *WORDS, "--quiet")
    assert code == 0, err
    result = json.loads(Path("runs/resnet10t/eval", f"{SMALL_NAME}.json").read_text())
    assert result["model"]["parameters"] == sum(p.numel() for p in net.parameters())
    assert result["dataset"]["n"] == 40


def test_a_pretrained_net_of_timm_is_standardised_as_its_maker_says(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    real = timm.create_model

    def fetched(name: str, *, pretrained: bool, **shape: int) -> nn.Module:
        assert (name, pretrained, shape) == ("hf-hub:someone/net", True, {})
        module = real("resnet10t", pretrained=False, num_classes=10, in_chans=1)
        module.pretrained_cfg = {**module.pretrained_cfg, "mean": (0.25,), "std": (0.5,)}
        return module

    monkeypatch.setattr(timm, "create_model", fetched)
    result = evaluate_module("hf-hub:someone/net", data="digits", overrides=SMALL, samples=20, device="cpu")
    assert (result.run, result.model.settings["mean"], result.model.settings["std"]) == ("someone-net", [0.25], [0.5])


def test_a_net_that_timm_cannot_give(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    assert "timm has no model 'resnet10'; did you mean " in refused("evaluate", "--model", "timm:resnet10", *WORDS)

    def offline(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(timm, "create_model", offline)
    assert refused("evaluate", "--model", "hf-hub:someone/net", *WORDS) == (
        "'hf-hub:someone/net' could not be made (OSError: Network is unreachable); check its name and the network, or give weights "
        "of your own"
    )


def test_without_the_extra_timm(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refused("evaluate", "--model", "timm:resnet10t", *WORDS) == (
        "'timm:resnet10t' needs timm, which is not installed; install it with: pip install timm torchvision"
    )
