"""JTDMoE, the dual model of RT-ER's paper (ICML 2025, arXiv 2502.06832): a standard mixture beside a robust one.

Model:  F_D(x) = (1 - alpha) F_S(x) + alpha F_R(x), of probabilities; alpha may be chosen after training.
Phases: F_S on clean images; F_R as RT-ER; then jointly, two learners in turn, per batch:
    robust:    L_R = CE(F_R(x'), y) + (beta / B) sum_i sum_x KL(softmax f_i(x) || softmax f_i(x'_i)), f_i the experts of F_R
    standard:  L_S = CE(F_D(x), y) on clean images; only F_S moves
Certified, with m_R the margin and kappa the sensitivity of F_R (`rt_er.py`):  |d| < (alpha (m_R + 1) - 1) / (2 alpha kappa).
F_S may do what it likes within 1 - alpha. Deviations from paper and released code: docs/methods/jtdmoe.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.settings import Settings
from dwf.core.types import Routing, Spec
from dwf.methods.plain import clean_round, single_phase
from dwf.methods.rt_er import RoutedExperts, RtEr, mixed
from dwf.models import AttackCopy, Backbone, ExpertBank, Linear, ResNet
from dwf.models.bounds import Norm
from dwf.models.certificates import margin, radius
from dwf.training.optim import Adam, Recipe, Triangular
from dwf.training.plan import Batches, Group, Learner, Passes, Phase, Update


class Jtdmoe(Settings):
    """A standard and a robust mixture of E experts each, trained together; alpha weighs the two at inference.

    With PGD-K, joint training is K + 2.5 forwards and K + 2 backwards an image, of all 2 E experts.
    """

    INFERENCE: ClassVar[tuple[str, ...]] = ("alpha", "mixing", "robust.selection")
    """Settings that may change after training."""
    kind: Literal["jtdmoe"] = "jtdmoe"
    backbone: Backbone = ResNet()
    """Of the standard mixture's experts, of which there are as many as robust ones."""
    robust: RtEr = RtEr()
    """F_R, and how it is trained before the joint phase; its attack and its beta hold there too."""
    alpha: float = Field(default=0.7, ge=0, le=1)
    """Share of F_R in the answer. Nothing can be certified at 0.5 or below."""
    mixing: Literal["probabilities", "logits"] = "probabilities"
    """What is mixed; the released code mixes logits, of which nothing can be certified."""
    standard: Recipe = Recipe(epochs=130, batch=512, optimizer=Adam(learning_rate=1e-4), schedule=Triangular(cycles=11))
    """How F_S is trained before the joint phase."""
    joint: Recipe = Recipe(epochs=130, batch=512, optimizer=Adam(learning_rate=1e-4), schedule=Triangular(cycles=11))

    def model(self, spec: Spec) -> nn.Module:
        """Both mixtures. The standard one has RT-ER's linear router, which learns."""
        names = tuple(f"expert-{number + 1}" for number in range(self.robust.experts))
        bank = ExpertBank(self.backbone(spec) for _ in names)
        router = Linear()(spec.model_copy(update={"classes": names}))
        robust = self.robust.model(spec)
        assert isinstance(robust, RoutedExperts)
        return Dual(RoutedExperts(router, bank, self.robust.selection), robust, self.alpha, self.mixing)

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """Each mixture by itself, then both."""
        assert isinstance(model, Dual)
        apart = [single_phase("standard", model.standard, self.standard, clean_round), self.robust.phase("robust", model.robust)]
        recipe, moved = self.joint, model.robust if self.robust.router_learns else model.robust.bank
        learners = {
            name: Learner([Group(list(module.parameters()))], recipe.optimizer, recipe.schedule)
            for name, module in (("robust", moved), ("standard", model.standard))
        }
        rounds, still = recipe.epochs * recipe.parts, () if self.robust.router_learns else (model.robust.router,)
        needs = tuple(phase.name for phase in apart)
        return [*apart, Phase("joint", model, rounds, recipe.batch, learners, self._round, needs, recipe.parts, still)]

    def cost(self) -> Mapping[str, Passes]:
        """`standard` and `robust` run their own E experts; `joint` attacks F_R and each of its experts, and asks F_R once more."""
        forwards, backwards = self.robust.attack.passes
        joint = Passes(forwards + 2.5, backwards + 2)
        return {"standard": Passes(1, 1), "robust": self.robust.cost()["train"], "joint": joint}

    def _round(self, model: nn.Module, batches: Batches) -> Iterator[Update]:
        """Two updates a batch. F_S learns beside the F_R of that moment, whose answers are constants in eval mode."""
        assert isinstance(model, Dual)
        victim = AttackCopy(model.robust, batches.precision)
        for batch in batches:
            everybody = torch.arange(len(batch.y), device=batch.y.device)
            loss, log = self.robust.objective(model.robust, victim.refresh(), batch, [everybody] * self.robust.experts)
            yield Update(loss, "robust", log=log)
            with torch.no_grad():
                known = victim.refresh()(batch.x)
            loss = F.cross_entropy(model.together(model.standard(batch.x), known), batch.y)
            yield Update(loss, "standard", log={"loss_clean": loss.detach()})


class Dual(nn.Module):
    """(1 - alpha) F_S + alpha F_R: (B, C, H, W) in [0, 1] -> logits (B, classes). Experts count the standard mixture's first."""

    def __init__(
        self, standard: RoutedExperts, robust: RoutedExperts, alpha: float, mixing: Literal["probabilities", "logits"]
    ) -> None:
        super().__init__()
        self.standard = standard
        self.robust = robust
        self.alpha = alpha
        self.mixing = mixing

    @property
    def bank(self) -> ExpertBank:
        """All 2 E experts."""
        return ExpertBank([*self.standard.bank, *self.robust.bank])

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B, classes)."""
        return self.together(self.standard(x), self.robust(x))

    def together(self, standard: Tensor, robust: Tensor) -> Tensor:
        """The dual model's logits from those of both mixtures, (B, classes) each."""
        if self.mixing == "logits":
            return (1 - self.alpha) * standard + self.alpha * robust
        shares = [math.log(share) if share else -math.inf for share in (1 - self.alpha, self.alpha)]
        return mixed(robust.new_tensor(shares).expand(len(robust), 2), torch.stack([standard, robust], dim=1))

    def route(self, x: Tensor) -> Routing:
        """Logits, weights (B, 2 E) of which the robust mixture's sum to alpha, and every expert's logits."""
        return self._joined(self.standard.route(x), self.robust.route(x))

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        """The same with both routers soft."""
        return self._joined(self.standard.surrogate(x, temperature), self.robust.surrogate(x, temperature))

    def expert(self, x: Tensor, number: int) -> Tensor:
        """The logits (B, classes) of one expert."""
        half = len(self.standard.bank)
        return self.standard.expert(x, number) if number < half else self.robust.expert(x, number - half)

    def certified(self, x: Tensor, norm: Norm) -> Tensor:
        """(B,) radius inside which the class provably stays; raises `Refused` for mixed logits and nets of unknown bounds.

        Where it is above 0, the class is that of F_R: F_D's margin is at least alpha m_R - (1 - alpha).
        """
        if self.mixing == "logits":
            raise Refused("mixed logits have no bounded scores to certify; evaluate with --set method.mixing=probabilities")
        speed = self.robust.sensitivity(x, norm)
        ahead = self.alpha * (margin(self.robust(x)) + 1) - 1
        return radius(ahead, 2 * self.alpha * speed.kappa, speed.reach)

    def _joined(self, standard: Routing, robust: Routing) -> Routing:
        weights = torch.cat([(1 - self.alpha) * standard.weights, self.alpha * robust.weights], dim=1)
        opinions = torch.cat([standard.opinions, robust.opinions], dim=1)
        return Routing(self.together(standard.logits, robust.logits), weights, opinions)
