"""SoE, "Synergy-of-Experts" (Cui et al., NeurIPS 2022): sub-models that know when to be believed; the surest one answers alone.

Model:  p_i = softmax f_i;  rectified confidence r_i = max_k p_i[k] * sigmoid(u_i);  prediction f_j with j = argmax_i r_i.
Of a batch Z, with w_i = softmax_i(T r_i) and the truth t_i = p_i[y], both constants to the gradient:
    L(Z) = mean_x sum_i w_i CE(f_i, y) + lambda mean_{x,i} BCE(r_i, t_i)
where max_k p_i[k] inside r_i is a constant too wherever f_i is right. Training takes L(clean) + L(adversarial). What is the
paper's, what the released code's and what ours: docs/methods/soe.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dwf.attacks import Pgd
from dwf.core.settings import Settings
from dwf.core.types import Routing, Spec
from dwf.methods.plain import single_phase
from dwf.models import AttackCopy, Backbone, ExpertBank, ResNet
from dwf.training.optim import Recipe
from dwf.training.plan import Batches, Draw, Passes, Phase, Update


class Soe(Settings):
    """Sub-models that say how sure they are; the surest one answers alone.

    With E sub-models and PGD-K, passes of the whole system: K + 2 an image together, K + 1 + E one by one.
    """

    kind: Literal["soe"] = "soe"
    backbone: Backbone = ResNet()
    experts: int = Field(default=3, ge=2)
    """Sub-models E."""
    adversary: Literal["together", "one-by-one"] = "together"
    """Whom the attack ascends: the system, which chooses anew at every step, or every sub-model for E adversarial batches."""
    attack: Pgd = Pgd(start="image")
    sharpness: float = Field(default=1.0, ge=0)
    """T of w_i = softmax(T r_i): 0 trains every sub-model on every image alike, a large T only the surest one."""
    confidence: float = Field(default=1.0, ge=0)
    """lambda, the weight of the confidences' own loss."""
    recipe: Recipe = Recipe()

    def model(self, spec: Spec) -> nn.Module:
        """E nets, each with one output more than there are classes: a linear confidence head beside the class head."""
        answers = spec.model_copy(update={"classes": (*spec.classes, "confidence")})
        return Synergy(ExpertBank(self.backbone(answers) for _ in range(self.experts)))

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """One phase, everything together."""
        return [single_phase("train", model, self.recipe, self._round)]

    def cost(self) -> Mapping[str, Passes]:
        """The attack, and the clean batch with one adversarial batch, or with one for each sub-model."""
        batches = 2 if self.adversary == "together" else 1 + self.experts
        forwards, backwards = self.attack.passes
        return {"train": Passes(forwards + batches, backwards + batches)}

    def _round(self, model: nn.Module, batches: Batches) -> Iterator[Update]:
        """One concatenated forward pass over clean and adversarial images, so batch-norm sees the mixed batch."""
        assert isinstance(model, Synergy)
        victim = AttackCopy(model, batches.precision)
        for batch in batches:
            x = torch.cat([batch.x, *self._attacked(victim.refresh(), batch)])
            y = batch.y.repeat(len(x) // len(batch.y))
            opinions, scores = model.answers(x)
            classes, confidences = class_losses(opinions, scores, y, self.sharpness), confidence_losses(opinions, scores, y)
            losses = classes + self.confidence * confidences.mean(1)
            clean, adversarial = losses[: len(batch.y)].mean(), losses[len(batch.y) :].mean()
            chosen = F.one_hot(rectified(opinions, scores).argmax(1), self.experts)
            log = {
                "loss_clean": clean.detach(),
                "loss_adversarial": adversarial.detach(),
                "loss_confidence": confidences.detach().mean(),
                "largest_share": chosen.float().mean(0).amax(),
            }
            yield Update(clean + adversarial, log=log)

    def _attacked(self, victim: AttackCopy, batch: Draw) -> list[Tensor]:
        """One adversarial batch (B, C, H, W), or one for each sub-model."""
        if self.adversary == "together":
            return [self.attack(victim, batch.x, batch.y, batch.noise)]
        system = victim.inner
        assert isinstance(system, Synergy)
        alone = [partial(system.expert, number=number) for number in range(self.experts)]
        return [self.attack(expert, batch.x, batch.y, batch.noise) for expert in alone]


class Synergy(nn.Module):
    """The surest sub-model's logits: (B, C, H, W) in [0, 1] -> (B, classes). The choice is hard and has no gradient."""

    def __init__(self, bank: ExpertBank) -> None:
        """`bank`: nets with classes + 1 outputs, the last of which is the confidence score u_i."""
        super().__init__()
        self.bank = bank

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Opinions f (B, E, classes) and confidence scores u (B, E), in fp32 at least."""
        outputs = self.bank(x)
        return outputs[..., :-1], outputs[..., -1]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of the surest sub-model."""
        return self.route(x).logits

    def route(self, x: Tensor) -> Routing:
        """Logits of the surest sub-model, weights one-hot, all opinions."""
        opinions, scores = self.answers(x)
        chosen = rectified(opinions, scores).argmax(1)
        logits = opinions[torch.arange(len(chosen), device=chosen.device), chosen]
        return Routing(logits, F.one_hot(chosen, opinions.shape[1]).to(opinions.dtype), opinions)

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        """Opinions summed with weights softmax(r_i / temperature), differentiable in the confidences; hard as it goes to 0."""
        opinions, scores = self.answers(x)
        weights = torch.softmax(rectified(opinions, scores) / temperature, dim=1)
        return Routing((weights.unsqueeze(2) * opinions).sum(1), weights, opinions)

    def expert(self, x: Tensor, number: int) -> Tensor:
        """The logits (B, classes) of one sub-model."""
        opinion: Tensor = self.bank[number](x)[:, :-1]
        return opinion.to(torch.promote_types(opinion.dtype, torch.float32))


def rectified(opinions: Tensor, scores: Tensor) -> Tensor:
    """r_i = max_k softmax(f_i)[k] * sigmoid(u_i) in [0, 1]: opinions (B, E, classes), scores u (B, E) -> (B, E)."""
    return torch.softmax(opinions, dim=2).amax(2) * torch.sigmoid(scores)


def class_losses(opinions: Tensor, scores: Tensor, y: Tensor, sharpness: float) -> Tensor:
    """sum_i w_i CE(f_i, y) for each sample (B,); the weights w = softmax(T r) are constants."""
    weights = torch.softmax(sharpness * rectified(opinions, scores).detach(), dim=1)
    losses = F.cross_entropy(opinions.transpose(1, 2), y[:, None].expand_as(scores), reduction="none")  # (B, E)
    return (weights * losses).sum(1)


def confidence_losses(opinions: Tensor, scores: Tensor, y: Tensor) -> Tensor:
    """BCE(r_i, t_i) (B, E), whose target t_i = p_i[y] is a constant, and so is p_i's maximum where f_i is right.

    In log space, where it stays finite: 1 - r = (1 - s) + s (1 - c) with s = sigmoid(u), c = max p, and 1 - c the others' sum.
    """
    logs = torch.log_softmax(opinions, dim=2)
    truth = logs.gather(2, y[:, None, None].expand(*scores.shape, 1)).squeeze(2).exp().detach()
    top = opinions.argmax(2, keepdim=True)
    logs = torch.where(top == y[:, None, None], logs.detach(), logs)
    sure, rest = logs.gather(2, top).squeeze(2), logs.scatter(2, top, -torch.inf).logsumexp(2)
    believed, doubted = F.logsigmoid(scores), F.logsigmoid(-scores)
    return -truth * (sure + believed) - (1 - truth) * torch.logaddexp(doubted, believed + rest)
