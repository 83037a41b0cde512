"""How a mixture makes one answer out of its experts': read off an answer of its own, so that it holds for any `Routed` model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dwf.core.types import Routing

Mix = Callable[[Tensor, Tensor], Tensor]
"""Weights (B, K), opinions (B, K, classes) -> (B, classes)."""


def summed(weights: Tensor, opinions: Tensor) -> Tensor:
    """sum_i w_i f_i: of logits; of a hard choice, too."""
    return (weights.unsqueeze(2) * opinions).sum(1)


def voted(weights: Tensor, opinions: Tensor) -> Tensor:
    """log sum_i w_i softmax f_i: of probabilities."""
    return torch.logsumexp(weights.float().clamp(min=1e-30).log().unsqueeze(2) + torch.log_softmax(opinions.float(), 2), 1)


@torch.no_grad()
def rule(routing: Routing) -> Mix | None:
    """The one that gives this answer; None if neither does."""
    return next((mix for mix in (summed, voted) if same(mix(routing.weights, routing.opinions), routing.logits)), None)


@torch.no_grad()
def same(ours: Tensor, theirs: Tensor) -> bool:
    """Do two kinds of logits (B, classes) say the same, up to a number that all classes of an image share?"""
    return torch.allclose(torch.log_softmax(ours.float(), 1), torch.log_softmax(theirs.float(), 1), rtol=1e-2, atol=1e-2)
