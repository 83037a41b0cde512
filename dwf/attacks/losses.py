"""What an attack ascends: per-sample objectives (B,) of logits (B, classes), larger is worse for the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dwf.core.types import Classifier

Loss = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) -> what to ascend, per sample (B,)."""


def cross_entropy(model: Classifier, y: Tensor, target: Tensor | None = None) -> Loss:
    """Cross-entropy of the true class y (B,); with `target` (B,), the negative cross-entropy of the class to reach."""
    if target is None:
        return lambda x: F.cross_entropy(model(x).float(), y, reduction="none")
    return lambda x: -F.cross_entropy(model(x).float(), target, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit minus the true one (B,): above zero the sample is misclassified."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return wrong - true
