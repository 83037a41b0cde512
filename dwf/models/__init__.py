"""Structure that several methods share. A module that belongs to one method lives in that method's file."""

from typing import Annotated

from pydantic import Field

from dwf.core.settings import Settings
from dwf.models.bank import ExpertBank
from dwf.models.gate import Gate, GateNet
from dwf.models.googlenet import GoogLeNet
from dwf.models.inference import AttackCopy
from dwf.models.linear import Linear
from dwf.models.lipschitz import Lipschitz
from dwf.models.mixture import Mixture
from dwf.models.normalize import Normalize
from dwf.models.resnet import ResNet, WideResNet
from dwf.models.timm import Timm

BACKBONES: dict[str, type[Settings]] = {
    "googlenet": GoogLeNet,
    "linear": Linear,
    "lipschitz": Lipschitz,
    "resnet": ResNet,
    "timm": Timm,
    "wide-resnet": WideResNet,
}

Backbone = Annotated[GoogLeNet | Linear | Lipschitz | ResNet | Timm | WideResNet, Field(discriminator="kind")]
"""Settings that build a net: `ResNet(depth=18)(spec)`. One of BACKBONES, chosen by its `kind`."""

__all__ = [
    "BACKBONES",
    "AttackCopy",
    "Backbone",
    "ExpertBank",
    "Gate",
    "GateNet",
    "GoogLeNet",
    "Linear",
    "Lipschitz",
    "Mixture",
    "Normalize",
    "ResNet",
    "Timm",
    "WideResNet",
]
