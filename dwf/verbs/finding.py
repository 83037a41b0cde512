"""Modules that were made elsewhere, by name: `package.module:factory`, `timm:NAME`, `hf-hub:OWNER/NAME`; and weights for them."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from dwf.core.errors import Refused
from dwf.models.foreign import said
from dwf.models.timm import create


class Found(NamedTuple):
    """A module, and by which mean and std its images are to be standardised, where its maker says so."""

    module: nn.Module
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def find(text: str, *, channels: int, classes: int, weights: Path | None = None) -> Found:
    """The module that `text` names, with `weights` (a safetensors file) or its maker's own.

    `channels`, `classes`: of the data; a timm net that gets `weights` is built for them. Raises `Refused` for what does not exist,
    cannot be made, or does not fit.
    """
    if text.startswith(("timm:", "hf-hub:")):
        found = _timm(text, channels, classes, pretrained=weights is None)
    else:
        found = Found(_made(text))
    if weights is not None:
        install(found.module, weights, text)
    return found


def install(module: nn.Module, weights: Path, name: str) -> None:
    """Load a safetensors file into `module`, every name and shape as in the module; raises `Refused` where something is not."""
    try:
        safetensors.torch.load_model(module, weights)
    except FileNotFoundError:
        raise Refused(f"the weights {weights} do not exist; name a .safetensors file with --weights") from None
    except (SafetensorError, OSError) as error:
        raise Refused(
            f"{weights} is no safetensors file ({error}), and pickles such as .pt and .pth are never opened because they run "
            "code; convert it to safetensors: safetensors.torch.save_file(state_dict, 'model.safetensors')"
        ) from None
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        text = "; ".join(line if len(line) < 300 else f"{line[:300]} ..." for line in lines[:2])
        raise Refused(f"the weights {weights} do not fit {name}: {text or error}; give the weights of this very model") from None


def name_of(text: str) -> str:
    """What a model is called in tables and folders: `mynets.resnet.make`, `resnet10t`, `OWNER-NAME`."""
    bare = text.removeprefix("timm:").removeprefix("hf-hub:")
    return re.sub(r"[^\w.-]+", "-", bare.replace(":", ".")).strip("-.") or "model"


def _made(text: str) -> nn.Module:
    """What the factory of `package.module:factory` returns."""
    where, colon, name = text.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in where.split("."))):
        raise Refused(f"--model '{text}' is not of the form package.module:factory, timm:NAME or hf-hub:OWNER/NAME")
    if (here := str(Path.cwd())) not in sys.path:  # as `python -m` does, for a file beside which the command is given
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(where)
    except Exception as error:
        raise Refused(f"'{where}' cannot be imported ({said(error)}); install it, or run dwf in its folder") from error
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, [key for key, value in vars(module).items() if callable(value)], n=3)
        raise Refused(f"'{where}' has no '{name}'{_hint(close)}; name a function that returns the model, or its class")
    factory: Any = getattr(module, name)
    if isinstance(factory, nn.Module):
        return factory
    if not callable(factory):
        raise Refused(f"'{text}' is a {type(factory).__name__} and cannot be called; name a function that returns the model")
    try:
        made = factory()
    except Exception as error:
        raise Refused(f"'{text}' raised {said(error)}; it is called without arguments and must return the model") from error
    if not isinstance(made, nn.Module):
        raise Refused(f"'{text}' returned a {type(made).__name__} and not a torch.nn.Module; return the model itself")
    return made


def _timm(text: str, channels: int, classes: int, *, pretrained: bool) -> Found:
    """A net of timm or of the hub: as its maker trained it, or (not `pretrained`) bare and of the data's channels and classes."""
    shape: dict[str, Any] = {} if pretrained else {"num_classes": classes, "in_chans": channels}
    module = create(text.removeprefix("timm:"), {**shape, "pretrained": pretrained}, told=text)
    about: Any = module.pretrained_cfg
    return Found(module, tuple(about["mean"]), tuple(about["std"])) if pretrained else Found(module)


def _hint(close: list[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
