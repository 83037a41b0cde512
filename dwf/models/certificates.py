"""From Lipschitz bounds to certified radii: how far an image may move before an answer can change.

RT-ER (ICML 2025), Theorem 5.4 and equation 8: if the class scores of expert i lie in [0, 1] and are L_i-Lipschitz, and its weight
a_i is r_i-Lipschitz, then every score of F = sum_i a_i p_i moves by at most kappa |d|, kappa(x) = sum_i (r_i + a_i(x) L_i). Two
scores approach each other by twice that, so the class stands for |d| < margin / (2 kappa). Where one expert answers alone, kappa
is its L_i for as long as it stays chosen. The constants are upper bounds, `bounds.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwf.models.bounds import Norm, differences

SLACK = 1e-5
"""Times the largest logit, taken off each margin: rounding in fp32, which no Lipschitz bound knows of."""


class Sensitivity(NamedTuple):
    """How fast a mixture's probabilities can move."""

    kappa: Tensor
    """(B,) largest change of any class's probability for a move by 1."""
    reach: Tensor
    """(B,) how far an image may move before `kappa` need not hold any more."""


def soft(scores: Tensor, router: nn.Module, experts: Sequence[nn.Module], norm: Norm, pixels: int) -> Sensitivity:
    """Of sum_i a_i p_i with a = softmax of the router's `scores` (B, K). `pixels`: C x H x W."""
    moves = steepness(differences(router, norm, pixels)).to(scores)
    slopes = torch.stack([steepness(differences(expert, norm, pixels)).amax() for expert in experts]).to(scores)
    kappa = moves.sum() + torch.softmax(scores, dim=1) @ slopes
    return Sensitivity(kappa, torch.full_like(kappa, torch.inf))


def alone(scores: Tensor, router: nn.Module, experts: Sequence[nn.Module], norm: Norm, pixels: int) -> Sensitivity:
    """Of the expert with the largest of the router's `scores` (B, K), until another has it."""
    slopes = torch.stack([steepness(differences(expert, norm, pixels)).amax() for expert in experts]).to(scores)
    return Sensitivity(slopes[scores.argmax(1)], distance(scores, router, norm, pixels))


def steepness(between: Tensor) -> Tensor:
    """(classes,) Lipschitz constants of a softmax's probabilities, from those of its logits' differences (classes, classes).

    dp_c = p_c sum_k p_k (dz_c - dz_k), so |dp_c| <= p_c (1 - p_c) max_k |dz_c - dz_k|, and p (1 - p) <= 1/4.
    """
    return between.amax(1) / 4


def distance(logits: Tensor, net: nn.Module, norm: Norm, pixels: int) -> Tensor:
    """(B,) how far an image may move before another of the net's `logits` (B, classes) can be largest; exact for a linear net."""
    between = differences(net, norm, pixels).to(logits)
    top = logits.argmax(1)
    ahead = logits.gather(1, top[:, None]) - logits - SLACK * logits.abs().amax(1, keepdim=True)
    apart = (ahead.clamp(min=0) / between[top]).nan_to_num(nan=0.0, posinf=torch.inf)  # 0 / 0 proves nothing
    return apart.scatter(1, top[:, None], torch.inf).amin(1)


def margin(logits: Tensor) -> Tensor:
    """(B,) the largest probability minus the next, less rounding, of logits (B, classes)."""
    first, second = F.softmax(logits.double(), dim=1).topk(2, dim=1).values.unbind(1)
    return first - second - SLACK * logits.abs().amax(1).clamp(min=1)


def radius(ahead: Tensor, speed: Tensor, reach: Tensor) -> Tensor:
    """(B,) what it takes to use up the lead `ahead` at a given `speed`, within `reach`; 0 where there is no lead."""
    return torch.where(ahead > 0, torch.minimum(ahead / speed, reach), torch.zeros_like(ahead))
