"""A module that was made elsewhere becomes a classifier of ours, after it has shown on real images that it can be judged.

What it must do is what a number about robustness rests on: one answer an image whatever stands beside it in the batch, finite
logits, a gradient that reaches the pixels, and all of it on the device that was asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.types import Routed, Routing, Spec
from dwf.models.normalize import Normalize

CHANGE = 1e-3
"""Largest change of a logit, as a share of the largest logit where that is above 1, that is still rounding."""
RANDOM = 1e-4
"""Two passes that differ by more: the module is random. Protocols raise `randomized` for it."""

PROBABILITIES = (
    "returns probabilities and was attacked through their logarithm: the softmax of probabilities is nearly flat, its "
    "cross-entropy has next to no gradient, and attacks that follow it are weaker than they could be."
)
"""What users are told, after the model's name."""


class Foreign(nn.Module):
    """(B, C, H, W) float32 in [0, 1] -> logits (B, classes) float32, from a module that need not know our conventions."""

    def __init__(self, module: nn.Module, spec: Spec | None, probe: Tensor) -> None:
        """`spec`: whose mean and std the module expects its images to be standardised by; None gives it [0, 1].

        `probe` (B, C, H, W): real images on the module's device; attack copies are compared on them.
        """
        super().__init__()
        self.normalize = nn.Identity() if spec is None else Normalize(spec).to(probe.device)
        self.module = module
        self.probe = probe
        self.probabilities = False
        """The module ends in a softmax, so the logarithm is taken: log-probabilities are logits of the same prediction, while the
        cross-entropy of probabilities, taken for logits, has next to no gradient."""
        self.precision = torch.float32
        """Of convolutions and matrix products, by autocast; lower for attack copies only."""
        self.layout = torch.contiguous_format
        """Of the images in memory. `view` in strangers' code needs the ordinary one; an attack copy may take a faster one."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits, whatever the module returns."""
        answer: Tensor = self.ask(self.module, x)
        # Below the smallest normal number a softmax has underflown, and minus infinity would be no logit.
        return answer.float().clamp_min(torch.finfo(torch.float32).tiny).log() if self.probabilities else answer.float()

    def ask(self, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        """What `function` of the module returns for x (B, C, H, W) in [0, 1]; x itself it cannot change in place."""
        x = self.normalize(x.clone(memory_format=self.layout))
        with torch.autocast(x.device.type, self.precision, enabled=self.precision != torch.float32):
            return function(x)


class ForeignMixture(Foreign):
    """The same for a module that is `Routed`; a class of its own, because having `route` is what makes a model routed."""

    def route(self, x: Tensor) -> Routing:
        """The module's own."""
        return Routing(*(part.float() for part in self.ask(self._mixture.route, x)))

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        """The module's own."""
        return Routing(*(part.float() for part in self.ask(lambda x: self._mixture.surrogate(x, temperature), x)))

    def expert(self, x: Tensor, number: int) -> Tensor:
        """The module's own."""
        logits: Tensor = self.ask(lambda x: self._mixture.expert(x, number), x)
        return logits.float()

    @property
    def _mixture(self) -> Routed:
        assert isinstance(self.module, Routed)
        return self.module


def adopt(module: nn.Module, probe: Tensor, classes: int, *, name: str, spec: Spec | None = None) -> Foreign:
    """A copy of `module` on the device of `probe`, in fp32 and eval mode, that has stood every check; `module` stays as it is.

    `probe`: (B, C, H, W) float32 in [0, 1], real images. `name`: how sentences call the module. `spec`: the mean and std that it
    expects its images to be standardised by. Raises `Refused` for what cannot be judged.
    """
    try:
        twin = copy.deepcopy(module).requires_grad_(False).to(probe.device, torch.float32)
    except Exception as error:
        raise Refused(f"{name} cannot be copied to {probe.device} ({said(error)}); attacks work on a copy, so make it one that "
                      "copy.deepcopy and .to(device) can move") from error  # fmt: skip
    model = (ForeignMixture if isinstance(module, Routed) else Foreign)(twin, spec, probe)
    answer = _answer(model, name)
    _at_home(model, name, answer)
    shape, wanted = tuple(answer.shape), (len(probe), classes)
    if shape != wanted:
        raise Refused(f"{name} returned {shape} for {len(probe)} images of {classes} classes, not {wanted}; give it data of its "
                      "size and classes, or make it return logits (B, classes)")  # fmt: skip
    if not answer.isfinite().all():
        raise Refused(f"{name} returned NaN or infinite logits for ordinary images; check its weights, its mean and its std")
    _each_for_itself(model, answer, name)
    _differentiable(model, name)
    model.probabilities = bool((answer >= 0).all() and ((answer.float().sum(1) - 1).abs() < 1e-3).all())
    if model.probabilities and isinstance(model, Routed):
        raise Refused(f"{name} has a gate and returns probabilities, and attacks on a gate need logits; leave its softmax out")
    if isinstance(model, Routed):
        _routes(model, answer, name)
    return model


def said(error: Exception) -> str:
    """What an exception of a stranger's says, in one line of bounded length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2])
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _answer(model: Foreign, name: str) -> Tensor:
    """The module's own output for the probe, in eval mode."""
    try:
        with torch.no_grad():
            answer = model.eval().ask(model.module, model.probe)
    except Exception as error:
        _at_home(model, name)
        if _runs_in_training(model):
            raise Refused(f"{name} runs in training mode only ({said(error)}); a model is judged in eval mode, so make it run "
                          "there") from error  # fmt: skip
        size = tuple(model.probe.shape[1:])
        raise Refused(f"{name} fails on images of size {size} on {model.probe.device} ({said(error)}); give data of its own size "
                      "and channels, or mend its forward") from error  # fmt: skip
    if not isinstance(answer, Tensor):
        kind = type(answer).__name__
        raise Refused(f"{name} returned a {kind}, not a tensor of logits (B, classes); wrap it in a module that does")
    return answer


def _runs_in_training(model: Foreign) -> bool:
    try:
        trial = copy.deepcopy(model).train()
        trial.ask(trial.module, trial.probe)
    except Exception:  # noqa: BLE001  strangers raise what they like, and here it only decides between two sentences
        return False
    return True


def _at_home(model: Foreign, name: str, answer: Tensor | None = None) -> None:
    """Raises `Refused` if a parameter, a buffer or the output left the probe's device."""
    home = model.probe.device
    kept = dict(model.module.named_parameters()) | dict(model.module.named_buffers())
    places = [(f"keeps '{key}'", tensor.device) for key, tensor in kept.items()]
    places += [("puts its logits", answer.device)] if answer is not None else []
    for what, device in places:
        if device != home:
            raise Refused(f"{name} {what} on {device}, and {home} was asked for; remove the .to(...) or .cuda() from its code")


def _each_for_itself(model: Foreign, answer: Tensor, name: str) -> None:
    """Raises `Refused` if an image's logits change when the other half of its batch leaves. Random modules cannot be asked."""
    half = len(answer) // 2
    if half == 0:
        return
    with torch.no_grad():
        again, alone = model.ask(model.module, model.probe), model.ask(model.module, model.probe[:half])
    change = float((alone - answer[:half]).abs().max())
    if float((again - answer).abs().max()) <= RANDOM and not change <= CHANGE * max(1.0, float(answer.abs().max())):
        raise Refused(f"{name} in eval mode changes an image's logits by {change:.3g} with the images beside it in the batch, as "
                      "batch statistics do; make it use running statistics")  # fmt: skip


def _routes(model: Routed, answer: Tensor, name: str) -> None:
    """Raises `Refused` if `route` and `surrogate` are not those of the model that is judged: attacks on them would miss it."""
    assert isinstance(model, Foreign)
    x = model.probe.clone().requires_grad_()
    try:
        with torch.enable_grad():
            routing, soft = model.route(x), model.surrogate(x, 1.0)
            gradient = torch.autograd.grad((soft.weights * torch.arange(soft.weights.shape[1], device=x.device)).sum(), x)[0]
        first = model.expert(x, 0)
    except Exception as error:
        raise Refused(f"{name} has route, surrogate and expert, and they fail ({said(error)}); make route and surrogate return "
                      "(logits, weights, opinions), differentiable in the routing") from error  # fmt: skip
    one_each = torch.ones(len(x), device=x.device)
    scale = max(1.0, float(answer.abs().max()))
    wrong = {
        "route's logits are not the model's": float((routing.logits.detach() - answer).abs().max()) > 1e-2 * scale,
        "route's weights do not sum to 1": not torch.allclose(routing.weights.detach().sum(1), one_each, atol=1e-3),
        "route's opinions are not (B, K, classes)": routing.opinions.shape != (*routing.weights.shape, answer.shape[1]),
        "expert 0 is not route's first opinion": first.shape != answer.shape
        or not torch.allclose(first, routing.opinions[:, 0], rtol=1e-2, atol=1e-2 * scale),
        "surrogate's weights have no gradient": routing.weights.shape[1] > 1 and not bool(gradient.any()),
    }
    for what, so in wrong.items():
        if so:
            raise Refused(f"{name}: {what}; a model that cannot be attacked through its routing cannot be judged")


def _differentiable(model: Foreign, name: str) -> None:
    """Raises `Refused` if no gradient can be asked for. One that is zero is another matter, which protocols raise an alarm for."""
    x = model.probe[:2].clone().requires_grad_()
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(model.ask(model.module, x).sum(), x)
    except Exception as error:
        raise Refused(f"no gradient of {name} reaches the image ({said(error)}), and white-box attacks follow it; remove "
                      "torch.no_grad(), detach() and in-place tricks from its forward") from error  # fmt: skip
    if not gradient.isfinite().all():
        raise Refused(f"the gradient of {name} at the image is NaN or infinite; look for sqrt, log or division at 0 in its forward")
