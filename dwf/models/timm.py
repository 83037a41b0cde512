"""Backbones of timm (Wightman, github.com/huggingface/pytorch-image-models) by their name, for images of any size.

The plain nets of the paper's tables are `vgg19_bn`, `resnet34`, `resnet50`, `densenet121`, `densenet169`, `inception_v3`,
`legacy_xception` and `mobilenetv2_100`. timm comes with the extra: nothing here imports it before a net is built.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.settings import Settings
from dwf.core.types import Spec
from dwf.models.foreign import said
from dwf.models.normalize import Normalize
from dwf.models.stem import undo, without_halvings

_GIVEN = ("img_size", "in_chans", "num_classes", "pretrained", "model_name", "checkpoint_path")
"""Arguments of timm that follow from the data or from another setting."""


class Timm(Settings):
    """Any net of timm by its name, with a stem for small images. Needs timm: pip install timm torchvision."""

    kind: Literal["timm"] = "timm"
    name: str = Field(default="vgg19_bn", min_length=1)
    """As timm.list_models() has it."""
    stem: Literal["small", "original"] = "small"
    """small: 32 pixels end in a map of 4 x 4 or more, VGG has one linear head, and a transformer cuts the image into 8 x 8
    patches. original: as timm makes it, for images of the size that the net was made for."""
    pretrained: bool = False
    """Begin with the maker's weights, fetched from the hub; what the small stem replaces begins anew."""
    arguments: dict[str, bool | int | float | str | list[int]] = Field(default_factory=dict)
    """Further arguments of timm.create_model, such as drop_path_rate or patch_size."""

    @model_validator(mode="after")
    def _not_given(self) -> Timm:
        for name in _GIVEN:
            if name in self.arguments:
                raise ValueError(f"'arguments.{name}' follows from 'name', from the data or from 'pretrained'; leave it out")
        return self

    def __call__(self, spec: Spec) -> nn.Module:
        """A freshly built net for these images and classes; raises `Refused` where timm, the name or a fitting size is missing."""
        given: dict[str, Any] = {**self.arguments, "in_chans": spec.channels, "num_classes": len(spec.classes)}
        with torch.device("meta"):
            plan = create(self.name, given)
            if sizes := self._sizes(plan, spec):
                given = sizes | given
                plan = create(self.name, given)
        plan.eval()
        names = without_halvings(plan, spec.channels) if self.stem == "small" and "img_size" not in given else []
        self._finish(plan, [], spec)
        self._try(plan, spec)
        net = create(self.name, {**given, "pretrained": self.pretrained})
        self._finish(net, names, spec)
        return TimmNet(spec, net)

    def _sizes(self, plan: nn.Module, spec: Spec) -> dict[str, Any]:
        """For a net that must know the size of its images: that size, and patches of an eighth of it over all stages."""
        takes = {name for kind in type(plan).__mro__ for name in inspect.signature(kind.__init__).parameters}  # type: ignore[misc]
        if "img_size" not in takes:
            return {}
        sizes: dict[str, Any] = {"img_size": (spec.height, spec.width)}
        if self.stem == "small" and "patch_size" in takes:
            info: Any = getattr(plan, "feature_info", None) or [{"reduction": 1}]
            later = info[-1]["reduction"] // info[0]["reduction"]
            sizes["patch_size"] = max(1, min(spec.height, spec.width) // (8 * later))
        return sizes

    def _finish(self, net: Any, names: list[str], spec: Spec) -> None:
        """The small stem, and one linear head where timm has VGG's two hidden layers for 7 x 7 maps."""
        undo(net, names, spec.channels)
        if self.stem == "small" and hasattr(net, "pre_logits") and hasattr(net.pre_logits, "input_kernel_size"):
            from timm.layers.classifier import ClassifierHead

            net.pre_logits = nn.Identity()
            head = ClassifierHead(net.num_features, len(spec.classes), drop_rate=net.drop_rate)
            net.head = head.to(next(net.parameters()).device)
            net.head_hidden_size = net.num_features

    @torch.no_grad()
    def _try(self, plan: nn.Module, spec: Spec) -> None:
        """Raises `Refused` if the net on the meta device cannot answer such images."""
        wanted = (2, len(spec.classes))
        try:
            found = tuple(plan(torch.empty(2, spec.channels, spec.height, spec.width, device="meta")).shape)
        except Exception as error:
            raise Refused(
                f"timm's {self.name} with stem '{self.stem}' cannot take images of {spec.height} x {spec.width} pixels "
                f"({said(error)}); choose another net or the other stem"
            ) from error
        if found != wanted:
            raise Refused(f"timm's {self.name} returned {found} for two images and not logits {wanted}; choose another net")


def create(name: str, arguments: Mapping[str, Any], *, told: str | None = None) -> nn.Module:
    """timm.create_model; raises `Refused`, with `told` (`name`) as what was asked for, where timm or the net does not exist."""
    told = told or name
    try:
        import timm
    except ImportError:
        raise Refused(f"'{told}' needs timm, which is not installed; install it with: pip install timm torchvision") from None
    if not name.startswith("hf-hub:") and not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise Refused(f"timm has no model '{name}'{hint}; see timm.list_models()")
    try:
        net: nn.Module = timm.create_model(name, **arguments)
    except Exception as error:
        remedy = (
            "the network, or give weights of your own" if arguments.get("pretrained") else "its arguments, or choose another net"
        )
        raise Refused(f"'{told}' could not be made ({said(error)}); check its name and {remedy}") from error
    return net


class TimmNet(nn.Module):
    """Normalise, then a net of timm: (B, C, H, W) in [0, 1] -> logits (B, classes)."""

    def __init__(self, spec: Spec, net: nn.Module) -> None:
        super().__init__()
        self.normalize = Normalize(spec)
        self.net = net

    @property
    def head(self) -> nn.Linear:
        """The net's classifier: logits = head(features(x)). An `AttributeError` where that is no single linear layer."""
        head = self.net.get_classifier()  # type: ignore[operator]
        if not isinstance(head, nn.Linear):
            raise AttributeError(f"the classifier is a {type(head).__name__}")
        return head

    def features(self, x: Tensor) -> Tensor:
        """What the net's classifier reads, (B, features), of images (B, C, H, W) in [0, 1]."""
        with self._precision(x):
            maps = self.net.forward_features(self.normalize(x))  # type: ignore[operator]
            out: Tensor = self.net.forward_head(maps, pre_logits=True)  # type: ignore[operator]
        return out.to(self._dtype())

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        with self._precision(x):
            out: Tensor = self.net(self.normalize(x))
        return out

    def _precision(self, x: Tensor) -> torch.autocast | nullcontext[None]:
        """An attack copy's bf16 weights ask for autocast: the parameters of norms, positions and scales beside them stay fp32."""
        dtype = self._dtype()
        return torch.autocast(x.device.type, dtype) if dtype in (torch.bfloat16, torch.float16) else nullcontext()

    def _dtype(self) -> torch.dtype:
        return next(m.weight.dtype for m in self.net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
