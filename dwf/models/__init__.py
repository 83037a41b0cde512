"""Structure that several methods share. A module that belongs to one method lives in that method's file."""

from typing import Annotated

from pydantic import Field

from dwf.core.settings import Settings
from dwf.models.bank import ExpertBank
from dwf.models.gate import Gate, GateNet
from dwf.models.inference import AttackCopy
from dwf.models.linear import Linear
from dwf.models.lipschitz import Lipschitz
from dwf.models.mixture import Mixture
from dwf.models.normalize import Normalize
from dwf.models.resnet import ResNet, WideResNet

BACKBONES: dict[str, type[Settings]] = {
    "linear": Linear,
    "lipschitz": Lipschitz,
    "resnet": ResNet,
    "wide-resnet": WideResNet,
}

Backbone = Annotated[Linear | Lipschitz | ResNet | WideResNet, Field(discriminator="kind")]
"""Settings that build a net: `ResNet(depth=18)(spec)`. One of BACKBONES, chosen by its `kind`."""

__all__ = [
    "BACKBONES",
    "AttackCopy",
    "Backbone",
    "ExpertBank",
    "Gate",
    "GateNet",
    "Linear",
    "Lipschitz",
    "Mixture",
    "Normalize",
    "ResNet",
    "WideResNet",
]
