"""A model under attack.

The caller never trusts an attack: `Victim.verdict` puts every image back into ball and box, and asks the original model, in eval
mode and fp32, in a fresh forward pass.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from dwf.attacks.engine import finite, known, project
from dwf.core.errors import Refused
from dwf.core.seeds import Noise, derive, drawing
from dwf.core.types import Batch, Classifier, Routed, Switched, Threat
from dwf.models import AttackCopy
from dwf.models.compiled import compile_nets
from dwf.models.cost import multiply_adds


class Meter:
    """Images that passed through a model, forwards and backwards."""

    def __init__(self) -> None:
        self.forwards = self.backwards = 0.0


class Metered:
    """A classifier whose images are counted."""

    def __init__(self, model: Classifier, meter: Meter, share: float = 1.0) -> None:
        """`share`: how much of a whole forward pass one image costs (`Shares`)."""
        self.model, self._meter, self._share = model, meter, share

    def __call__(self, x: Tensor) -> Tensor:
        """The model's logits."""
        self._meter.forwards += len(x) * self._share
        self._meter.backwards += len(x) * self._share if torch.is_grad_enabled() and x.requires_grad else 0
        return self.model(x)


class Shares(NamedTuple):
    """What other ways into a mixture cost, in passes of the whole: 1 and 1/K where all K experts answer each image, K and 1 where a
    hard router computes the one that it chose.
    """

    every: float
    """All experts' opinions and the routing."""
    alone: tuple[float, ...]
    """Each expert by itself."""


class Victim:
    """A model under attack: the original that judges, the fast copy that is ascended, other models, and the bill."""

    def __init__(
        self,
        model: nn.Module,
        precision: torch.dtype,
        seed: int,
        surrogates: Mapping[str, nn.Module] | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        """The models are put into eval mode; `precision` is that of the copies. `surrogates`: by name, what to transfer from.

        `compiled`: the fast copy runs as generated code.
        """
        self.meter = Meter()
        self.module = model.eval()
        self.original = Metered(model, self.meter)
        fast = AttackCopy(model, precision)
        if compiled:
            compile_nets(fast)
        self._inner = fast.inner
        self.copy = Metered(fast, self.meter)
        self.surrogates = {name: self.through(AttackCopy(other.eval(), precision)) for name, other in (surrogates or {}).items()}
        self.seed = seed
        self.bills: dict[str, tuple[float, float, float]] = {}
        self._shares: Shares | None = None
        self._last = (time.perf_counter(), 0.0, 0.0)

    @property
    def routed(self) -> Routed:
        """The copy's experts and routing. Raises `Refused` for a model without."""
        if not isinstance(self._inner, Routed):
            raise Refused(f"{type(self._inner).__name__} has no experts to attack one by one; use a protocol that asks for none")
        return self._inner

    @torch.no_grad()
    def shares(self, x: Tensor) -> Shares:
        """Counted once in multiply-adds, on the first of the images `x` (B, C, H, W)."""
        if self._shares is None:
            with drawing(0, x.device):  # a switch that is asked here draws nothing that an attack would have drawn
                self._shares = self._counted(cast(Routed, self.module), x[:1])
        return self._shares

    def _counted(self, routed: Routed, x: Tensor) -> Shares:
        experts = range(routed.route(x).opinions.shape[1])
        whole = multiply_adds(self.module, x)
        if not whole:  # neither convolutions nor matrix products
            return Shares(1.0, tuple(1 / len(experts) for _ in experts))
        alone = (multiply_adds(partial(routed.expert, number=number), x) / whole for number in experts)
        return Shares(multiply_adds(routed.route, x) / whole, tuple(alone))

    def fixed(self, permutation: Sequence[int]) -> Victim:
        """A `Switched` model with its switch held, on the same bill: a deterministic victim that judges for itself."""
        held = copy.copy(self)
        held.module, held._inner = (cast(Switched, one).fixed(permutation) for one in (self.module, self._inner))
        held.original, held.copy = Metered(held.module, self.meter), Metered(held._inner, self.meter)
        return held

    @property
    def settled(self) -> Victim:
        """The model whose gate can be asked for its own choice: with a switch, that is the model as trained."""
        return self.fixed(self.module.permutations[0]) if isinstance(self.module, Switched) else self

    def through(self, classifier: Classifier, share: float = 1.0) -> Classifier:
        """Another way into the model, or another model, on the same bill."""
        return Metered(classifier, self.meter, share)

    def noise(self, batch: Batch, *row: str) -> Noise:
        """The attack noise of these samples, the same in any batch; each named row has its own."""
        return Noise(derive(self.seed, "attack", *row), batch.index)

    @torch.no_grad()
    def verdict(self, adversarial: Tensor, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """(B,) bool: does the original still name class y, after the image was put back into the ball around x and the box?

        Raises `Refused` if an image or a logit is NaN or infinite.
        """
        allowed = project(adversarial, x, threat)
        if not allowed.isfinite().all():
            known(self.original(x))  # where the logits are no numbers either, they are the cause to name
            finite(allowed)
        return known(self.original(allowed)).argmax(1) == y

    def bill(self, row: str) -> None:
        """Book everything since the last call on a row: seconds, forward and backward passes of images."""
        now = (time.perf_counter(), self.meter.forwards, self.meter.backwards)
        if row:
            before = self.bills.get(row, (0.0, 0.0, 0.0))
            seconds, forwards, backwards = (old + new - last for old, new, last in zip(before, now, self._last, strict=True))
            self.bills[row] = (seconds, forwards, backwards)
        self._last = now
