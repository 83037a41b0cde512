"""Projected gradient ascent, once for all first-order attacks, and the guard around it.

The line of the algorithm box (Madry et al., ICLR 2018): x <- clip_[0,1] project_ball(x + step * direction(gradient)).
FGSM, BIM, MIM and PGD are arguments of `ascend`; EoT averages `draws` gradients. Losses are per sample and summed, so a sample's
path does not depend on its batch; perturbation, projection and sign are fp32 whatever the model computes in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from dwf.attacks.losses import Loss
from dwf.core.errors import Refused
from dwf.core.seeds import Noise
from dwf.core.types import Classifier, Threat

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

State = TypeVar("State", bound="DataclassInstance")
Direction = Callable[[Tensor], Tensor]
"""The RAW gradient (B, C, H, W) -> the unit move of each sample. Momentum therefore accumulates before the sign is taken, as Dong
et al. (CVPR 2018) define it; foolbox takes the sign first."""
Start = Callable[[Tensor, Threat, Noise, int], Tensor]
"""Images, threat, noise and restart number -> where the ascent starts."""


def ascend(
    loss: Loss,
    x: Tensor,
    threat: Threat,
    *,
    steps: int,
    step: float,
    noise: Noise,
    start: Start | None = None,
    direction: Direction | None = None,
    draws: int = 1,
    restart: int = 0,
    first: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yields each of the `steps` iterates (B, C, H, W), all inside ball and box.

    x: (B, C, H, W) float32 in [0, 1]. `loss` returns one value per sample. `step` is in the units of the threat's radius.
    `start` defaults to `uniform`, `direction` to `steepest(threat)`. `draws` > 1 averages that many gradients (expectation over
    transformation, Athalye et al., ICML 2018) and is for models that are random by themselves. `first`: the gradient (B, C, H, W)
    at the start, where the caller has it already.
    """
    x, direction = x.detach(), direction or steepest(threat)
    adversarial = (start or uniform)(x, threat, noise, restart)
    for number in range(steps):
        known = first if number == 0 else None
        moved = adversarial + step * direction(input_gradient(loss, adversarial, draws) if known is None else known)
        adversarial = project(moved, x, threat)
        yield adversarial


def end(iterates: Iterator[Tensor]) -> Tensor:
    """The last iterate. The others are not kept: fifty copies of a batch are memory that training could use."""
    return deque(iterates, maxlen=1)[0]


def input_gradient(loss: Loss, x: Tensor, draws: int = 1) -> Tensor:
    """Gradient (B, C, H, W) of the summed per-sample loss, averaged over `draws` evaluations; parameters receive nothing."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        gradient = torch.autograd.grad(loss(x).sum(), x)[0]
        for _ in range(draws - 1):  # one graph at a time
            gradient = gradient + torch.autograd.grad(loss(x).sum(), x)[0]
    return gradient if draws == 1 else gradient / draws


def finite(gradient: Tensor) -> Tensor:
    """The gradient itself, or images that followed it. Raises `Refused` if it is NaN or infinite anywhere: comparisons with NaN
    would pass for robustness.
    """
    if not gradient.isfinite().all():
        raise Refused("the model's input gradient is NaN or infinite and no attack can follow it; look for sqrt, log or / at 0")
    return gradient


def known(logits: Tensor) -> Tensor:
    """The logits themselves. Raises `Refused` if one is NaN or infinite: nothing larger or smaller would be seen in them."""
    if not logits.isfinite().all():
        raise Refused(
            "the model returned NaN or infinite logits under attack, and nothing can be said about its robustness; look in it "
            "for sqrt, log or / at 0"
        )
    return logits


def sign(gradient: Tensor) -> Tensor:
    """-1, 0 or 1; NaN where the gradient is NaN or infinite, without waiting for the device.

    torch.sign makes 0 of NaN, and an attack that stands still would pass for robustness; an image of NaN is noticed by whoever
    judges it, and by the loss of whoever trains on it.
    """
    return torch.add(gradient.sign(), gradient, alpha=0)


def project(moved: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """The nearest point of the ball around x, then of the pixel box. Clipping moves towards x, so the ball is kept."""
    if threat.norm == "linf":
        reach = threat.eps if threat.scale is None else threat.eps * _stretch(threat.scale, x)
        inside = torch.maximum(torch.minimum(moved, x + reach), x - reach)
    else:
        change = moved - x
        inside = x + change * (threat.eps / _norms(change).clamp(min=1e-12)).clamp(max=1)
    return inside.clamp(0, 1)


def steepest(threat: Threat) -> Direction:
    """The unit move that raises a linear loss most: the sign for Linf (times its scale), the normalised gradient for L2."""
    if threat.norm == "l2":
        return normalised
    if (scale := threat.scale) is not None:
        return lambda gradient: sign(gradient) * _stretch(scale, gradient)
    return sign


def normalised(gradient: Tensor) -> Tensor:
    """Length 1 for each sample, however short: the squares of what a saturated model leaves of a gradient underflow. 0 stays 0."""
    largest = gradient.abs().amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
    scaled = gradient / largest
    return scaled / _norms(scaled).clamp(min=torch.finfo(gradient.dtype).tiny)


def at_image(x: Tensor, threat: Threat, noise: Noise, restart: int) -> Tensor:
    """Start at the image itself."""
    return x


def uniform(x: Tensor, threat: Threat, noise: Noise, restart: int) -> Tensor:
    """Start uniformly inside the ball (its volume, for L2), clipped to the box."""
    if threat.eps == 0:
        return x
    shape = x.shape[1:]
    if threat.norm == "linf":
        change = (2 * noise.uniform(shape, restart=restart) - 1) * threat.eps
        return (x + (change if threat.scale is None else change * _stretch(threat.scale, x))).clamp(0, 1)
    way = noise.normal(shape, restart=restart)
    radius = noise.uniform((1, 1, 1), restart=restart, step=1) ** (1 / shape.numel())
    return (x + way / _norms(way) * radius * threat.eps).clamp(0, 1)


def rows_of(state: State, rows: Tensor) -> State:
    """The same dataclass of per-sample tensors (B, ...) for some of its samples: `rows` are positions or a mask."""
    return replace(state, **{field.name: getattr(state, field.name)[rows] for field in fields(state)})


@contextmanager
def frozen(model: Classifier) -> Iterator[None]:
    """Leaves a module bit-identical: eval mode inside, every sub-module's own mode, buffers and requires_grad restored after.

    Anything that is no nn.Module passes through.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
        for buffer, value in buffers:
            buffer.data.copy_(value)  # past autograd: the same values spoil no graph that the caller has yet to differentiate


def checked(x: Tensor, y: Tensor, threat: Threat, target: Tensor | None = None) -> None:
    """Refuses what no attack can mean: images outside [0, 1], whole or half numbers, NaN, labels that do not fit."""
    if x.dim() != 4 or x.dtype not in (torch.float32, torch.float64):  # half numbers round images out of their ball
        raise Refused(
            f"images are {tuple(x.shape)} {x.dtype}, an attack needs (B, C, H, W) float32 in [0, 1]; divide bytes by 255, and give "
            "half numbers as float32"
        )
    if x.is_inference() or torch.is_inference_mode_enabled():
        raise Refused("torch.inference_mode forbids the gradients that an attack follows; use torch.no_grad instead")
    if threat.scale is not None and len(threat.scale) != x.shape[1]:
        raise Refused(f"the threat scales {len(threat.scale)} channels and the images have {x.shape[1]}; give one factor a channel")
    named = [("labels", y)] + ([] if target is None else [("targets", target)])
    for name, labels in named:
        if labels.shape != x.shape[:1] or labels.dtype != torch.int64:
            raise Refused(
                f"{name} are {tuple(labels.shape)} {labels.dtype}, an attack on {len(x)} images needs ({len(x)},) int64; "
                "give the number of one class for each image"
            )
    if not x.numel():
        return
    low, high = x.aminmax()
    least = torch.stack([labels.amin() for _, labels in named])
    if (low >= 0) & (high <= 1) & (least >= 0).all():  # one wait for the device; NaN fails both comparisons
        return
    if not (low >= 0 and high <= 1):
        raise Refused(
            f"images reach from {low:.3g} to {high:.3g}, an attack needs [0, 1]; put mean and standard deviation inside the model"
        )
    name = named[int(least.argmin())][0]
    raise Refused(f"{name} go down to {int(least.min())}, but classes are counted from 0; shift or filter them")


def _stretch(scale: tuple[float, ...], x: Tensor) -> Tensor:
    return x.new_tensor(scale).view(1, -1, 1, 1)


def _norms(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
    return norms
