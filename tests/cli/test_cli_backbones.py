"""`dwf list backbones`, and the choice of one with --set."""

from __future__ import annotations

import json
import re
import sys

import pytest
from cli_words import SMALL, Dwf

from dwf import inventory
from dwf.core.settings import Settings
from dwf.inventory import PICTURE, PLAIN_NETS
from dwf.models import BACKBONES, Backbone, ResNet, Timm
from dwf.models.cost import cost
from dwf.run import read

COUNTED = re.compile(r"([\d.]+) M parameters, ([\d.]+) G multiply-adds")


def test_every_kind_and_every_net_of_the_paper_is_listed_with_its_cost(dwf: Dwf, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed")
    three = {name: PLAIN_NETS[name] for name in ("VGG-19", "ResNet-18", "MobileNet-V2")}  # counting all takes seconds
    monkeypatch.setattr(inventory, "PLAIN_NETS", three)
    code, out, _ = dwf("list", "backbones", "--json")
    assert code == 0
    shelf = json.loads(out)["backbones"]
    assert set(shelf) == {*BACKBONES, *three}
    assert all(COUNTED.search(about) for about in shelf.values())
    parameters, multiply_adds = cost(ResNet(), PICTURE)
    found = COUNTED.search(shelf["ResNet-18"])
    assert found is not None
    assert [float(text) for text in found.groups()] == [round(parameters / 1e6, 2), round(multiply_adds / 1e9, 3)]


def test_without_timm_its_nets_are_named_and_the_remedy_is_too(dwf: Dwf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    code, out, _ = dwf("list", "backbones")
    words = " ".join(out.split())
    assert code == 0
    assert words.count("pip install timm torchvision") == 2 + sum(isinstance(net, Timm) for net in PLAIN_NETS.values())
    assert words.count("G multiply-adds") == len(BACKBONES) - 1 + sum(not isinstance(net, Timm) for net in PLAIN_NETS.values())


@pytest.mark.parametrize("name", PLAIN_NETS)
def test_the_words_of_the_list_choose_the_net(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "cost", lambda net, _: (0, 0))
    about = inventory.inventory("backbones")["backbones"][name]
    words = re.search(r"--set (method\.backbone)='(\{.*\})'", about)
    assert words is not None
    for preset in ("plain-cifar10", "plain-svhn"):
        chosen: Settings = read(preset, ["=".join(words.groups())]).method.backbone
        assert chosen == PLAIN_NETS[name]


def test_one_setting_at_a_time_chooses_it_too() -> None:
    chosen: Backbone = read("plain-cifar10", ["method.backbone.kind=timm", "method.backbone.name=densenet169"]).method.backbone
    assert chosen == Timm(name="densenet169")


def test_a_net_of_timm_is_trained_and_evaluated_without_the_hub(dwf: Dwf, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    real, fetched = timm.create_model, []

    def create(name: str, *, pretrained: bool = False, **shape: object) -> object:
        fetched.append(pretrained)
        return real(name, **shape)

    monkeypatch.setattr(timm, "create_model", create)
    backbone = 'method.backbone={kind="timm", name="test_resnet", pretrained=true}'
    few = [
        "--set",
        "data.limit=60",
        "--set",
        "method.recipe.epochs=1",
        "--set",
        "method.recipe.batch=20",
        "--set",
        "validation.steps=1",
        "--device",
        "cpu",
    ]
    assert dwf("train", "plain-digits", "--set", backbone, *few, "--out", "run", "--quiet").code == 0
    assert any(fetched)
    fetched.clear()
    steps = [word for text in SMALL for word in ("--set", text)]
    code, _, err = dwf("evaluate", "run", *steps, "--samples", "20", "--device", "cpu", "--quiet")
    assert code == 0, err
    assert fetched
    assert not any(fetched), "the run's own weights replace the maker's at once"
