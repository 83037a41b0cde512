"""What an attack ascends: per-sample objectives (B,) of logits (B, classes), larger is worse for the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dwf.core.errors import Refused
from dwf.core.types import Classifier

Loss = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) -> what to ascend, per sample (B,)."""


def cross_entropy(model: Classifier, y: Tensor, target: Tensor | None = None) -> Loss:
    """Cross-entropy of the true class y (B,); with `target` (B,), the negative cross-entropy of the class to reach."""
    if target is None:
        return lambda x: F.cross_entropy(model(x).float(), y, reduction="none")
    return lambda x: -F.cross_entropy(model(x).float(), target, reduction="none")


def divergence(clean: Tensor, moved: Tensor) -> Tensor:
    """KL(softmax clean || softmax moved) per sample (B,) in fp32, of logits (B, classes) each; differentiable in both.

    Logarithms on both sides: with probabilities a gap of 100 between two logits underflows, and 0 log 0 has no gradient.
    """
    told, said = F.log_softmax(clean.float(), 1), F.log_softmax(moved.float(), 1)
    return (told.exp() * (told - said)).sum(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus the true one (B,): above zero the sample is misclassified."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return wrong - true


def difference_of_logits_ratio(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """DLR (B,) of Croce and Hein (ICML 2020, equations 6 and 7): the margin over a gap of the sorted logits, blind to their scale.

    Untargeted: -(z_y - max_{i != y} z_i) / (z_1 - z_3). With `target` (B,): -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2).
    Raises `Refused` for fewer classes than the sorted gap needs: 3, or 4 with a target.
    """
    needed = 3 if target is None else 4
    if logits.shape[1] < needed:
        raise Refused(f"the DLR loss sorts {needed} logits and the model has {logits.shape[1]} classes; use the cross-entropy")
    ordered = logits.sort(dim=1, descending=True).values
    if target is None:
        return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)
    ahead = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    return ahead / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)
