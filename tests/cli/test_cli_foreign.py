"""`dwf evaluate --model`: a stranger's package, evaluated or refused in one sentence."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_words import SMALL, SMALL_NAME, Dwf
from safetensors.torch import save_file
from torch import nn

from dwf import evaluate_module, write_report
from dwf.core.errors import Refused as RefusedError
from dwf.core.result import from_json
from dwf.core.types import Spec
from dwf.models import ExpertBank, Gate, Mixture, ResNet

Refused = Callable[..., str]
FEW = [word for text in SMALL for word in ("--set", text)]
WORDS = ("--data", "digits", *FEW, "--samples", "40", "--batch", "25", "--device", "cpu")

PACKAGE = '''
import torch
from torch import nn


class Net(nn.Module):
    """Grey images of 16 x 16, standardised by mean and std."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 7 * 7, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(x.view(x.size(0), -1))


class Nan(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")


class Mover(Net):
    def forward(self, x):
        self.to("meta")
        return super().forward(x.to("meta"))


class Batched(Net):
    def train(self, mode=True):
        return super().train(True)


class Trainee(Net):
    def forward(self, x):
        if not self.training:
            raise RuntimeError("call train() first")
        return super().forward(x)


class Soft(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Coloured(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)


def make():
    torch.manual_seed(3)
    return Net()


def soft():
    torch.manual_seed(3)
    return Soft()


def seven():
    return Net(7)


def broken():
    raise LookupError("no such file")


def nothing():
    return "a net"


ready = make()
number = 3
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A third-party package in the folder where the command is given; fresh for every test."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("")
    (tmp_path / "theirs" / "nets.py").write_text(PACKAGE)
    (tmp_path / "theirs" / "sick.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] == "theirs"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


@pytest.fixture
def theirs(package: Path, dwf: Dwf) -> Callable[[], nn.Module]:
    """Their factory, imported."""
    sys.path.insert(0, str(package))
    import theirs.nets

    return theirs.nets.make


def test_a_strangers_package_end_to_end(package: Path) -> None:
    """In a process of its own, as a user would; nothing of ours is in their code."""
    torch.manual_seed(5)
    weights = {"conv.weight": torch.randn(8, 1, 3, 3), "head.weight": torch.randn(10, 392), "head.bias": torch.randn(10)}
    weights |= {f"norm.{name}": torch.rand(8) + 0.5 for name in ("weight", "bias", "running_mean", "running_var")}
    save_file({**weights, "norm.num_batches_tracked": torch.tensor(7)}, package / "w.safetensors")

    words = ["evaluate", "--model", "theirs.nets:make", "--weights", "w.safetensors", "--mean", ".3", "--std", ".4", *WORDS]
    program = [sys.executable, "-c", "import sys; sys.path.remove(''); from dwf.cli import main; main()", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "140"}
    said = subprocess.run(program, capture_output=True, text=True, check=False, env=environment, cwd=package)
    assert said.returncode == 0, said.stderr
    assert "theirs.nets.make" in said.stdout
    assert "probabilities" not in said.stdout
    folder = package / "runs" / "theirs.nets.make"
    file = folder / "eval" / f"{SMALL_NAME}.json"
    result = from_json(json.loads(file.read_text()), where=file)
    assert (result.run, result.model.method, result.model.parameters) == ("theirs.nets.make", "foreign", 72 + 16 + 3930)
    assert result.dataset.name == "digits"
    assert (result.dataset.split, result.dataset.n) == ("test", 40)
    about = {key: result.model.settings[key] for key in ("model", "weights", "mean", "std", "outputs")}
    assert about == {"model": "theirs.nets:make", "weights": "w.safetensors", "mean": [0.3], "std": [0.4], "outputs": "logits"}
    record = json.loads((folder / "run.json").read_text())
    assert record["spec"]["classes"] == list("0123456789")
    assert (record["name"], record["data"]["sha256"]) == ("theirs.nets.make", result.dataset.sha256)

    pages = write_report([folder], folder / "report.html")
    assert all(word in pages[0].read_text() for word in ("theirs.nets.make", "foreign"))


def test_three_lines_of_python_for_a_module_in_hand(theirs: Callable[[], nn.Module]) -> None:
    net = theirs().train()
    result = evaluate_module(net, data="digits", name="mine", mean=[0.3], std=[0.4], overrides=SMALL, samples=40, device="cpu")
    assert result.clean.n == 40
    assert Path("runs/mine/eval", f"{SMALL_NAME}.json").is_file()
    assert result.model.settings["model"] == "theirs.nets.Net"
    assert net.training


def test_a_mixture_in_hand_is_attacked_as_one(package: Path) -> None:
    spec = Spec(classes=tuple("0123456789"), channels=1, height=16, width=16, mean=(0.3,), std=(0.4,))
    module = Mixture(ExpertBank([ResNet(depth=10, width=2)(spec) for _ in range(2)]), Gate(hidden=8)(spec, 2))
    result = evaluate_module(module, data="digits", overrides=SMALL, samples=20, device="cpu")
    assert (result.run, result.model.forward_passes) == ("Mixture", 2)
    assert result.routing is not None
    assert len(result.routing["clean"].weights) == 2


def test_the_same_numbers_by_name_and_in_hand(dwf: Dwf, theirs: Callable[[], nn.Module]) -> None:
    assert dwf("evaluate", "--model", "theirs.nets:make", "--out", "named", *WORDS, "--quiet").code == 0
    assert dwf("evaluate", "--model", "theirs.nets:ready", "--out", "ready", *WORDS, "--quiet").code == 0
    held = evaluate_module(theirs(), data="digits", name="held", overrides=SMALL, samples=40, batch=25, device="cpu")
    for folder in ("named", "ready"):
        file = Path(folder, "eval", f"{SMALL_NAME}.json")
        named = from_json(json.loads(file.read_text()), where=file)
        assert [(row.name, row.accuracy) for row in named.attacks] == [(row.name, row.accuracy) for row in held.attacks]
        assert named.clean == held.clean


def test_a_module_that_returns_probabilities_is_noticed_and_attacked_as_hard(dwf: Dwf, package: Path) -> None:
    rows = []
    for name in ("make", "soft"):
        code, out, err = dwf("evaluate", "--model", f"theirs.nets:{name}", *WORDS, "--precision", "fp32")
        assert code == 0, err
        file = Path("runs", f"theirs.nets.{name}", "eval", f"{SMALL_NAME}.json")
        result = from_json(json.loads(file.read_text()), where=file)
        rows.append([row.accuracy for row in result.attacks])
    assert "theirs.nets.soft returns probabilities and was attacked through their logarithm: " in out.replace("\n", " ")
    assert result.model.settings["outputs"] == "probabilities"
    assert rows[1] == pytest.approx(rows[0], abs=0.051)  # two samples of rounding


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
        "'timm:resnet10t' needs timm, which is not installed; install it with: pip install 'dwf[timm]'"
    )


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
