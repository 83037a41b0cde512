"""What there is to choose from, and what this machine can do."""

from __future__ import annotations

import json
import platform
import shutil
import tomllib
from importlib.metadata import PackageNotFoundError, version
from inspect import getdoc

import torch

from dwf.attacks import ATTACKS
from dwf.core.errors import Refused
from dwf.core.ranks import pick_device
from dwf.core.settings import Settings, nearest
from dwf.core.types import Spec
from dwf.data import DATASETS
from dwf.data.hub import PLACES
from dwf.evaluation import PROTOCOLS
from dwf.methods import METHODS
from dwf.models import BACKBONES, Backbone, GoogLeNet, ResNet, Timm
from dwf.models.cost import cost
from dwf.models.inference import attack_precision
from dwf.run import package_version, presets

PLAIN_NETS: dict[str, Backbone] = {
    "VGG-19": Timm(name="vgg19_bn"),
    "ResNet-18": ResNet(depth=18),
    "ResNet-34": ResNet(depth=34),
    "ResNet-50": ResNet(depth=50),
    "DenseNet-121": Timm(name="densenet121"),
    "DenseNet-169": Timm(name="densenet169"),
    "GoogLeNet": GoogLeNet(),
    "Inception-V3": Timm(name="inception_v3"),
    "Xception": Timm(name="legacy_xception"),
    "MobileNet-V2": Timm(name="mobilenetv2_100"),
    "ViT-small": Timm(name="vit_small_patch16_224"),
}
"""The undefended nets of the paper's tables, by the names that they have there, and RT-ER's expert for Tiny ImageNet."""
PICTURE = Spec(classes=tuple("0123456789"), channels=3, height=32, width=32, mean=(0.5,) * 3, std=(0.25,) * 3)
"""Of what costs are stated for: one 3x32x32 image of ten classes."""


def inventory(what: str | None = None) -> dict[str, dict[str, str]]:
    """Shelf -> name -> first line of its description; raises `Refused` for an unknown shelf.

    The shelf of the backbones, asked for by itself, also holds the paper's plain nets and says what each net costs.
    """
    families = {"attacks": ATTACKS, "backbones": BACKBONES, "datasets": DATASETS, "methods": METHODS, "protocols": PROTOCOLS}
    shelves = {shelf: {name: _first(member) for name, member in family.items()} for shelf, family in families.items()}
    shelves["methods"] = {name: f"{about} {_passes(name)}" for name, about in shelves["methods"].items()}
    if what == "backbones":  # counting takes seconds
        shelves["backbones"] = _backbones(shelves["backbones"])
    shelves["datasets"] |= {name: "From the hub by its name: --data " + name for name in PLACES}
    shelves["presets"] = {name: tomllib.loads(path.read_text())["about"] for name, path in presets().items()}
    if what is not None and what not in shelves:
        raise Refused(f"there is nothing called '{what}' to list; {nearest(what, list(shelves))}")
    return {shelf: members for shelf, members in sorted(shelves.items()) if what in (None, shelf)}


def diagnosis() -> tuple[list[str], dict[str, str]]:
    """(problems, facts) about this installation."""
    device = pick_device("auto")
    facts = {
        "dwf": package_version(),
        "python": f"{platform.python_version()} on {platform.platform()}",
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": str(torch.get_num_threads()),
        "bf16": "native" if attack_precision(device) is torch.bfloat16 else "not native here: attacks and training run in fp32",
        "free disc": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB",
    }
    for extra in ("tensorboard", "timm", "torchvision"):
        facts[extra] = _version(extra) or "not installed (optional)"
    return _problems(), facts


def _problems() -> list[str]:
    """A CPU-only torch beside a CUDA torchvision, or the reverse, fails with `operator torchvision::nms does not exist`."""
    vision = _version("torchvision")
    if vision and ("+cpu" in vision) != ("+cpu" in torch.__version__):
        return [f"torch {torch.__version__} and torchvision {vision} are different builds; install both from the same index"]
    return []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _passes(method: str) -> str:
    """What a method costs with its default settings, phase by phase."""
    costs = METHODS[method]().cost()
    each = ", ".join(f"{phase} {passes.forwards:g} + {passes.backwards:g}" for phase, passes in costs.items())
    return f"Forward + backward passes of all that a phase trains, an image and epoch: {each}."


def _backbones(about: dict[str, str]) -> dict[str, str]:
    """Every kind with its defaults, then the paper's nets, each with how to choose it and what it costs."""
    kinds = {kind: f"{about[kind]} {_cost(BACKBONES[kind]())}" for kind in BACKBONES}
    return kinds | {name: f"--set method.backbone='{_inline(net)}'. {_cost(net)}" for name, net in PLAIN_NETS.items()}


def _cost(net: Settings) -> str:
    """Parameters and multiply-adds, or why they cannot be counted here."""
    assert callable(net)
    try:
        parameters, multiply_adds = cost(net, PICTURE)
    except Refused as refusal:
        return f"Not counted: {refusal}."
    return f"{parameters / 1e6:.2f} M parameters, {multiply_adds / 1e9:.3f} G multiply-adds a 3x32x32 image."


def _inline(net: Settings) -> str:
    """The settings as a TOML inline table, as `--set` takes it."""
    fields = {"kind": net.model_dump()["kind"], **net.deviations()}
    if isinstance(net, Timm):
        fields["name"] = net.name
    return "{" + ", ".join(f"{key}={json.dumps(value)}" for key, value in fields.items()) + "}"


def _first(member: object) -> str:
    return (getdoc(member) or "").splitlines()[0]
