"""RT-ER, "robust training with experts' robustification" (ICML 2025, arXiv 2502.06832): a router and E experts, each robust alone.

Model:  p_i = softmax f_i;  a = softmax r(x);  F(x) = p_j with j = argmax_i a_i, in training F(x) = sum_i a_i p_i.
Per batch, with x' = PGD on F, j(x) the second-best expert of the clean image and x'_j = PGD on that expert alone:
    L = CE(F(x'), y) + (beta / B) sum_x KL(softmax f_j(x) || softmax f_j(x'_j))
The second-best expert may be the one that is chosen under attack. The released router never learns; ours does, because its weights
mix the probabilities in training, and a straight-through gradient lets attacks push it. Deviations: docs/methods/rt-er.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dwf.attacks import Pgd
from dwf.attacks.losses import divergence
from dwf.core.settings import Settings
from dwf.core.types import Routing, Spec
from dwf.models import AttackCopy, Backbone, ExpertBank, Linear, ResNet
from dwf.models.bounds import Norm
from dwf.models.certificates import Sensitivity, alone, margin, radius, soft
from dwf.training.optim import Adam, Recipe, Triangular
from dwf.training.plan import Batches, Draw, Group, Learner, Passes, Phase, Update

LARGEST = 10.0
"""Of the logarithm of how much more another expert believes in a class: past it, the gradient of the choice is large enough."""


class RtEr(Settings):
    """Experts behind a learnt router: the mixture learns PGD images, and each image's second-best expert to agree with the best.

    With E experts and PGD-K, passes of the whole mixture: K + 1, and (K + 2) / E for the second-best experts.
    """

    INFERENCE: ClassVar[tuple[str, ...]] = ("selection",)
    """Settings that may change after training."""
    kind: Literal["rt-er"] = "rt-er"
    backbone: Backbone = ResNet()
    experts: int = Field(default=4, ge=2)
    """E."""
    router: Backbone = Linear()
    """Of the experts' scores r, from the same image; published: one linear layer."""
    router_learns: bool = True
    """False is the released code: the router stays as it was drawn, and one expert answers in training too."""
    selection: Literal["top-1", "soft"] = "top-1"
    """Who answers after training: the expert with the largest weight, or all, weighted."""
    attack: Pgd = Pgd()
    beta: float = Field(default=6.0, ge=0)
    """Weight of the divergence."""
    recipe: Recipe = Recipe(epochs=130, batch=512, optimizer=Adam(learning_rate=1e-4), schedule=Triangular(cycles=11))

    def model(self, spec: Spec) -> nn.Module:
        """Router and experts."""
        names = tuple(f"expert-{number + 1}" for number in range(self.experts))
        router = self.router(spec.model_copy(update={"classes": names}))
        bank = ExpertBank(self.backbone(spec) for _ in range(self.experts))
        return RoutedExperts(router, bank, self.selection, mixes_in_training=self.router_learns)

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """One phase, everything together."""
        assert isinstance(model, RoutedExperts)
        return [self.phase("train", model)]

    def phase(self, name: str, model: RoutedExperts) -> Phase:
        """The training of one mixture."""
        recipe, trained = self.recipe, model if self.router_learns else model.bank
        learner = Learner([Group(list(trained.parameters()))], recipe.optimizer, recipe.schedule)
        rounds, still = recipe.epochs * recipe.parts, () if self.router_learns else (model.router,)
        return Phase(name, model, rounds, recipe.batch, {"all": learner}, self._round, parts=recipe.parts, frozen=still)

    def cost(self) -> Mapping[str, Passes]:
        """The attack on all experts and one pass to learn; for the second-best, an E-th of an attack and of two passes."""
        forwards, backwards = self.attack.passes
        attacks, learning = 1 + 1 / self.experts, 1 + 2 / self.experts
        return {"train": Passes(attacks * forwards + learning, attacks * backwards + learning)}

    def _round(self, model: nn.Module, batches: Batches) -> Iterator[Update]:
        assert isinstance(model, RoutedExperts)
        victim = AttackCopy(model, batches.precision)
        for batch in batches:
            second = second_best(victim.refresh(), batch.x)
            loss, log = self.objective(model, victim, batch, [(second == i).nonzero().squeeze(1) for i in range(self.experts)])
            yield Update(loss, log=log)

    def objective(
        self, model: RoutedExperts, victim: AttackCopy, batch: Draw, robustified: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(L, what the journal keeps). `robustified`: for each expert the rows of the batch on which it is made robust by itself.

        Each expert sees all its images in one pass, so batch-norm normalises them together and counts once.
        """
        attacked = self.attack(victim, batch.x, batch.y, batch.noise)
        opinions, apart = [], batch.x.new_zeros(())
        for number, rows in enumerate(robustified):
            x = moved = batch.x[rows]
            if len(rows):
                moved = self.attack(partial(_inside(victim).expert, number=number), x, batch.y[rows], batch.noise.take(rows))
            answers = model.bank.opinion(number, torch.cat([attacked, x, moved]))
            whole, here, there = torch.split(answers, [len(batch.y), len(x), len(x)])
            opinions.append(whole)
            apart = apart + divergence(here, there).sum()
        routing = model.decide(model.scores(attacked), torch.stack(opinions, dim=1))
        wrong, apart = F.cross_entropy(routing.logits, batch.y), apart / len(batch.y)
        share = F.one_hot(routing.weights.argmax(1), self.experts).float().mean(0).amax()
        return wrong + self.beta * apart, {"loss_attacked": wrong.detach(), "loss_kl": apart.detach(), "largest_share": share}


@torch.no_grad()
def second_best(victim: AttackCopy, x: Tensor) -> Tensor:
    """(B,) the expert with the second-largest weight on each image."""
    return _inside(victim).scores(x).topk(2, dim=1).indices[:, 1]


def _inside(victim: AttackCopy) -> RoutedExperts:
    assert isinstance(victim.inner, RoutedExperts)
    return victim.inner


class RoutedExperts(nn.Module):
    """(B, C, H, W) in [0, 1] -> logits (B, classes): those of one expert, or of all experts' probabilities mixed.

    All experts are computed for every image, for the gradient of the choice.
    """

    def __init__(
        self, router: nn.Module, bank: ExpertBank, selection: Literal["top-1", "soft"], *, mixes_in_training: bool = True
    ) -> None:
        """`router`: a net with a score for each expert. `mixes_in_training`: while training all answer, whatever the selection."""
        super().__init__()
        self.router = router
        self.bank = bank
        self.selection = selection
        self.mixes_in_training = mixes_in_training

    def scores(self, x: Tensor) -> Tensor:
        """The router's scores r (B, E), in fp32 at least."""
        scores: Tensor = self.router(x)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, classes)."""
        return self.route(x).logits

    def route(self, x: Tensor) -> Routing:
        """Logits, weights (one-hot where one expert answers) and every expert's logits."""
        return self.decide(self.scores(x), self.bank(x))

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        """All experts' probabilities mixed with weights softmax(r / temperature); hard as it goes to 0."""
        return _mixture(self.scores(x) / temperature, self.bank(x))

    def expert(self, x: Tensor, number: int) -> Tensor:
        """The logits (B, classes) of one expert."""
        opinion: Tensor = self.bank[number](x)
        return opinion.to(torch.promote_types(opinion.dtype, torch.float32))

    def decide(self, scores: Tensor, opinions: Tensor) -> Routing:
        """From scores (B, E) and opinions (B, E, classes)."""
        mixes = self.selection == "soft" or (self.training and self.mixes_in_training)
        return _mixture(scores, opinions) if mixes else _choice(scores, opinions)

    def sensitivity(self, x: Tensor, norm: Norm) -> Sensitivity:
        """How fast the probabilities F can move, by upper bounds; raises `Refused` for nets whose bounds are not known."""
        bound = soft if self.selection == "soft" else alone
        return bound(self.scores(x), self.router, list(self.bank), norm, x[0].numel())

    def certified(self, x: Tensor, norm: Norm) -> Tensor:
        """(B,) radius inside which the class provably stays (Theorem 5.4, with 2 kappa); raises `Refused` as `sensitivity` does."""
        speed = self.sensitivity(x, norm)
        ahead = margin(self.route(x).logits)
        return radius(ahead, 2 * speed.kappa, speed.reach)


def mixed(shares: Tensor, opinions: Tensor) -> Tensor:
    """Logits (B, classes) of sum_i w_i softmax(f_i), from log-weights (B, E) and opinions (B, E, classes).

    In log space, where nothing underflows, and at the height of the weighted mean of the opinions' log-sum-exp: a single expert's
    logits come out as they went in.
    """
    heights = opinions.logsumexp(2)
    return (shares.unsqueeze(2) + opinions - heights.unsqueeze(2)).logsumexp(1) + (shares.exp() * heights).sum(1, keepdim=True)


def _mixture(scores: Tensor, opinions: Tensor) -> Routing:
    shares = torch.log_softmax(scores, dim=1)
    return Routing(mixed(shares, opinions), shares.exp(), opinions)


def _choice(scores: Tensor, opinions: Tensor) -> Routing:
    """The favourite's logits. Their gradient is that of log sum_i w_i p_i, where w is one-hot and moves like softmax r."""
    weights = torch.softmax(scores, dim=1)
    top = weights.argmax(1)
    rows = torch.arange(len(top), device=top.device)
    believed = torch.log_softmax(opinions, dim=2).detach()
    more = (believed - believed[rows, top].unsqueeze(1)).clamp(max=LARGEST).exp()  # p_i / p_j, (B, E, classes)
    push = ((weights - weights.detach()).unsqueeze(2) * more).sum(1)  # zero, but for its gradient
    return Routing(opinions[rows, top] + push, F.one_hot(top, weights.shape[1]).to(opinions.dtype), opinions)
