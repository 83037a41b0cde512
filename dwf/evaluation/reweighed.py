"""The model-reweighing attack on mixtures, after MORA (Yu et al., NeurIPS 2022, arXiv 2211.08008).

Attacks on an ensemble overstate its robustness where its members' gradients cancel or vanish. Here each expert's gradient counts by
how much that expert can still change the decision. Where logits are averaged, lambda_i ~ w_i sigma'(beta m_i), with m_i its margin
between the true class y and the mixture's best wrong one z. Where probabilities are (p the expert's, q the mixture's), lambda_i ~
w_i p_z (p_y / q_y + (1 - p_z) / q_z). Ascended is the cross-entropy of
(1 - s) z / gap(z) + s sum_i lambda_i f_i / max(gap(f_i) / 10, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from dwf.attacks.engine import finite, frozen, input_gradient, known, project, steepest, uniform
from dwf.attacks.losses import Loss, margin
from dwf.core.seeds import Noise
from dwf.core.types import Batch, Routed, Routing, Threat
from dwf.evaluation.attacked import on_whom, take
from dwf.evaluation.check import Outcome, Row, Standing
from dwf.evaluation.mixing import rule, summed
from dwf.evaluation.victim import Victim

MOMENTUM = 0.75


@dataclass(frozen=True)
class Reweighed:
    """One ascent for each member of the sweep, on those that still stand."""

    threat: Threat
    steps: int = 50
    betas: tuple[float, ...] = (0.5, 2.0)
    """How sharply an expert that is lost already, or cannot be moved, is left out where logits are averaged; elsewhere each is one
    more start.
    """
    shares: tuple[float, ...] = (0.5, 1.0)
    """s: how much the experts count beside the mixture."""
    after: tuple[str, ...] | None = None
    draws: int = 1
    """Gradients and margins averaged a step, for models that are random."""

    def rows(self) -> Sequence[Row]:
        """One row: broken by any member of the sweep."""
        sweep = {"betas": list(self.betas), "shares": list(self.shares), "gate_gradient": [True, False], "draws": self.draws}
        settings = {**sweep, "on": on_whom(self.after)}
        return [Row("reweighed", self.threat, self.steps, len(self._sweep()), 2 * self.threat.eps, settings=settings)]

    def _sweep(self) -> list[tuple[float, float, bool]]:
        return list(product(self.betas, self.shares, (True, False)))

    def __call__(self, victim: Victim, batch: Batch, standing: Standing) -> Outcome:
        """beta x s x gate with or without gradient."""
        right = standing.asked(self.threat, self.after)
        routed = victim.routed
        with frozen(victim.copy.model):
            for number, (beta, share, gate_gradient) in enumerate(self._sweep()):
                rows = right.nonzero().squeeze(1)
                if len(rows) == 0:
                    break
                rest = take(batch, rows)
                lens = _Lens(routed, victim, rest.y, beta=beta, share=share, gate_gradient=gate_gradient)
                every = victim.shares(rest.x).every
                images = self._ascend(victim.through(lens.loss, every), lens, rest, victim.noise(rest, "reweighed"), number)
                right = right.index_put((rows,), victim.verdict(images, rest.x, rest.y, self.threat))
        victim.bill("reweighed")
        return Outcome({"reweighed": right})

    def _ascend(self, loss: Loss, lens: _Lens, batch: Batch, noise: Noise, restart: int) -> Tensor:
        """The iterate that the copy found most wrong, for each sample; the step falls linearly from twice the radius."""
        here = before = uniform(batch.x, self.threat, noise, restart)
        worst, damage = batch.x, torch.full(batch.y.shape, -torch.inf, device=batch.x.device)
        for number in range(self.steps):
            gradient = finite(input_gradient(loss, here, self.draws))
            seen = lens.margin()
            better = seen > damage
            worst = torch.where(better.view(-1, 1, 1, 1), here, worst)
            damage = torch.where(better, seen, damage)
            step = 2 * self.threat.eps * (1 - number / self.steps)
            moved = project(here + step * steepest(self.threat)(gradient), batch.x, self.threat)
            weight = 1.0 if number == 0 else MOMENTUM
            there = here + (moved - here) * weight + (here - before) * (1 - weight)
            before, here = here, project(there, batch.x, self.threat)
        with torch.no_grad():
            for _ in range(self.draws):
                loss(here)
        return torch.where((lens.margin() > damage).view(-1, 1, 1, 1), here, worst)


class _Lens:
    """The reweighed loss; remembers the mixture's margins since it was asked for them."""

    def __init__(self, routed: Routed, victim: Victim, y: Tensor, *, beta: float, share: float, gate_gradient: bool) -> None:
        self._routed, self._y, self._beta, self._share, self._gate_gradient = routed, y, beta, share, gate_gradient
        self._decide = victim.through(lambda x: routed.route(x).logits)
        self._margins: list[Tensor] = []
        self._hard: bool | None = None

    def loss(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> cross-entropy (B,) of the reweighed score."""
        routing = self._routed.surrogate(x, 1.0)
        judged = self._judged(x, routing)
        self._margins.append(margin(known(judged.float()), self._y))
        return F.cross_entropy(self._score(routing), self._y, reduction="none")

    def margin(self) -> Tensor:
        """(B,) the mean over the passes since it was asked last."""
        mean = torch.stack(self._margins).mean(0)
        self._margins.clear()
        return mean

    @torch.no_grad()
    def _judged(self, x: Tensor, routing: Routing) -> Tensor:
        """The logits that the model itself would give: a hard router's are not its surrogate's."""
        if self._hard is None:
            self._hard = not torch.allclose(self._decide(x), routing.logits, rtol=1e-2, atol=1e-2)
        return self._decide(x) if self._hard else routing.logits.detach()

    def _score(self, routing: Routing) -> Tensor:
        weights = routing.weights.float() if self._gate_gradient else routing.weights.detach().float()
        opinions = routing.opinions.float()
        mixture = routing.logits.float()
        mix = rule(Routing(mixture, weights, opinions))
        averages_logits = mix is summed
        if mix is not None:  # with or without the gate's gradient; what neither sums is followed as it is
            mixture = mix(weights, opinions)
        with torch.no_grad():
            wrong = mixture.scatter(1, self._y[:, None], -torch.inf).argmax(1)
            influence = self._of_logits(opinions, wrong) if averages_logits else self._of_probabilities(opinions, mixture, wrong)
        # In the log, because a saturated expert's influence underflows just where it is needed.
        shares = torch.softmax(weights.clamp(min=1e-30).log() + influence, dim=1)
        voices = opinions / (_gap(opinions) / 10).clamp(min=1)
        experts = (shares.unsqueeze(2) * voices).sum(1)
        return (1 - self._share) * mixture / _gap(mixture).clamp(min=1e-6) + self._share * experts

    def _of_logits(self, opinions: Tensor, wrong: Tensor) -> Tensor:
        """log sigma'(beta m_i), (B, K)."""
        rows = torch.arange(len(wrong), device=wrong.device)
        margins = self._beta * (opinions[rows, :, self._y] - opinions[rows, :, wrong])
        return F.logsigmoid(margins) + F.logsigmoid(-margins)

    def _of_probabilities(self, opinions: Tensor, mixture: Tensor, wrong: Tensor) -> Tensor:
        """log p_z (p_y / q_y + (1 - p_z) / q_z), (B, K)."""
        rows = torch.arange(len(wrong), device=wrong.device)
        experts, whole = torch.log_softmax(opinions, 2), torch.log_softmax(mixture, 1)
        right, other = experts[rows, :, self._y], experts[rows, :, wrong]
        first = right - whole[rows, self._y].unsqueeze(1)
        second = torch.log1p(-other.exp().clamp(max=1 - 1e-7)) - whole[rows, wrong].unsqueeze(1)
        return other + torch.logaddexp(first, second)


@torch.no_grad()
def _gap(logits: Tensor) -> Tensor:
    """Between the two largest logits, (..., 1)."""
    top = logits.topk(2, dim=-1).values
    return top[..., :1] - top[..., 1:]
