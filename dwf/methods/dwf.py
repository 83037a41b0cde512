"""DWF, "Divided We Fall" (arXiv 2512.20821): experts trained apart on their own regimes, then jointly, end to end, with a gate.

Model (eqs 1, 2):  w(x) = softmax(g(x));  z(x) = sum_i w_i(x) f_i(x).
Phase 1:  benign expert CE(f(x), y);  FGSM expert CE(f(x'_eps), y), eps drawn a batch;  PGD expert CE(f(x'_K), y), K drawn a batch.
Phase 2:  L = (1 / 3B) sum_x [ CE(z(x), y) + CE(z(x'_FGSM), y) + CE(z(x'_PGD), y) ], both attacks on the complete mixture.
What the paper leaves open is a field below with its default; docs/paper-to-code.md lists what is stated and what is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from statistics import mean
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dwf.attacks import Fgsm, Pgd
from dwf.core.seeds import Noise, own_stream
from dwf.core.settings import Length, PixelFraction, Settings
from dwf.core.types import Spec, Threat
from dwf.methods.plain import clean_round, single_phase
from dwf.models import AttackCopy, Backbone, ExpertBank, Gate, Mixture, ResNet
from dwf.training.optim import Recipe, Sgd
from dwf.training.plan import Batches, Group, Learner, Passes, Phase, Update

NonEmpty = Annotated[tuple[PixelFraction, ...], Field(min_length=1)]
"""Radii to draw from."""

_MIXTURE = ("benign", "fgsm", "pgd", "gate", "gate_warmup", "joint", "gate_learning_rate")
_FGSM, _PGD = ("fgsm_eps", "fgsm_start"), ("pgd_threat", "pgd_step", "pgd_steps")
"""Settings that an expert which is trained without them does not depend on."""


class Dwf(Settings):
    """Nine ResNet-18 in the paper: one benign, four FGSM-trained, four PGD-trained."""

    kind: Literal["dwf"] = "dwf"
    backbone: Backbone = ResNet()
    benign: int = Field(default=1, ge=0)
    """Experts trained on clean images."""
    fgsm: int = Field(default=4, ge=0)
    """Experts trained on FGSM images."""
    pgd: int = Field(default=4, ge=0)
    """Experts trained on PGD images."""
    gate: Gate = Gate()

    fgsm_eps: NonEmpty = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09)
    """The FGSM radius is drawn from these for every batch (stated)."""
    fgsm_start: Literal["image", "uniform"] = "image"
    """Where FGSM starts (not stated; "image" is the classic attack and invites catastrophic overfitting)."""
    pgd_threat: Threat = Threat()
    """Of the PGD images (radius not stated; 8/255)."""
    pgd_step: Length = 2 / 255
    """PGD step size (not stated)."""
    pgd_steps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (10, 20, 30, 40, 50)
    """The number of PGD steps K is drawn from these for every batch (stated)."""
    batch_norm: Literal["eval", "batch"] = "eval"
    """Batch-norm of the attacked model: running statistics, or those of the attacked batch (not stated)."""

    experts: Recipe = Recipe(epochs=200, batch=128, optimizer=Sgd(learning_rate=0.1))
    """How each expert is pretrained (SGD with momentum, weight decay and cosine annealing are stated, the numbers are not)."""
    gate_warmup: int = Field(default=0, ge=0)
    """Epochs in which only the gate learns, between the two phases (the paper's table hints at it; 0 leaves it out)."""
    joint: Recipe = Recipe(epochs=30, batch=128, optimizer=Sgd(learning_rate=0.01))
    """The end-to-end phase; `batch` counts clean images, each step sees three times as many (stated)."""
    gate_learning_rate: float = Field(default=0.1, gt=0)
    """The gate's own rate in the joint phase: it starts fresh while the experts are trained (not stated)."""

    @model_validator(mode="after")
    def _two_experts(self) -> Dwf:
        if self.benign + self.fgsm + self.pgd < 2:
            raise ValueError(f"a mixture needs at least two experts, {self.benign + self.fgsm + self.pgd} were asked for")
        return self

    def model(self, spec: Spec) -> nn.Module:
        """The mixture; experts stand in the order benign, FGSM, PGD. `pgd-1` starts from the same weights beside any others."""
        experts = []
        for kind, count in (("benign", self.benign), ("fgsm", self.fgsm), ("pgd", self.pgd)):
            for number in range(count):
                with own_stream(f"{kind}-{number + 1}"):
                    experts.append(self.backbone(spec))
        return Mixture(ExpertBank(experts), self.gate(spec, len(experts)))

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """Algorithm 1 and 2: every expert by itself; algorithm 3: everything together."""
        assert isinstance(model, Mixture)
        kinds = [
            ("benign", self.benign, clean_round, (*_FGSM, *_PGD, "batch_norm")),
            ("fgsm", self.fgsm, self._fgsm_round, _PGD),
            ("pgd", self.pgd, self._pgd_round, _FGSM),
        ]
        named = [(f"{kind}-{number + 1}", learn, others) for kind, count, learn, others in kinds for number in range(count)]
        phases = [
            single_phase(name, expert, self.experts, learn, ignores=(*_MIXTURE, *others))
            for (name, learn, others), expert in zip(named, model.bank, strict=True)
        ]
        before = tuple(phase.name for phase in phases)
        if self.gate_warmup:
            phases.append(self._warmup(model, before))
            before = (*before, "gate")
        return [*phases, self._joint(model, before)]

    def cost(self) -> Mapping[str, Passes]:
        """An expert's phase trains one net; `gate` and `joint` run the whole mixture, on three images for each clean one."""
        steps = mean(self.pgd_steps)
        experts = {"benign": (self.benign, 1), "fgsm": (self.fgsm, 2), "pgd": (self.pgd, steps + 1)}
        passes = {kind: Passes(number, number) for kind, (count, number) in experts.items() if count}
        if self.gate_warmup:  # nothing flows back into the experts but the attacks' gradients
            passes["gate"] = Passes(steps + 4, steps + 1)
        return {**passes, "joint": Passes(steps + 4, steps + 4)}

    def _fgsm_round(self, expert: nn.Module, batches: Batches) -> Iterator[Update]:
        victim = self._victim(expert, batches)
        for batch in batches:
            x = self._fgsm(victim(), batch.x, batch.y, batch.noise, batch.random)
            yield Update(F.cross_entropy(expert(x), batch.y))

    def _pgd_round(self, expert: nn.Module, batches: Batches) -> Iterator[Update]:
        victim = self._victim(expert, batches)
        for batch in batches:
            x = self._pgd(victim(), batch.x, batch.y, batch.noise, batch.random)
            yield Update(F.cross_entropy(expert(x), batch.y))

    def _joint_round(self, mixture: nn.Module, batches: Batches) -> Iterator[Update]:
        """Algorithm 3. One concatenated forward pass, so batch-norm sees the mixed batch that the paper describes."""
        assert isinstance(mixture, Mixture)
        victim = self._victim(mixture, batches)
        for batch in batches:
            attacked = victim()
            fgsm = self._fgsm(attacked, batch.x, batch.y, batch.noise, batch.random)
            pgd = self._pgd(attacked, batch.x, batch.y, batch.noise, batch.random)
            routing = mixture.route(torch.cat([batch.x, fgsm, pgd]))
            losses = F.cross_entropy(routing.logits, batch.y.repeat(3), reduction="none").view(3, -1).mean(1)
            yield Update(losses.mean(), log=_health(losses.detach(), routing.weights.detach()))

    def _fgsm(self, victim: nn.Module, x: Tensor, y: Tensor, noise: Noise, random: Random) -> Tensor:
        return Fgsm(threat=Threat(eps=random.choice(self.fgsm_eps)), start=self.fgsm_start)(victim, x, y, noise)

    def _pgd(self, victim: nn.Module, x: Tensor, y: Tensor, noise: Noise, random: Random) -> Tensor:
        return Pgd(threat=self.pgd_threat, step=self.pgd_step, steps=random.choice(self.pgd_steps))(victim, x, y, noise)

    def _victim(self, model: nn.Module, batches: Batches) -> Callable[[], nn.Module]:
        """What the attacks ascend, with the present weights at every call."""
        return AttackCopy(model, batches.precision, batch_statistics=self.batch_norm == "batch").refresh

    def _warmup(self, model: Mixture, needs: tuple[str, ...]) -> Phase:
        learner = Learner(
            [Group(list(model.gate.parameters()), self.gate_learning_rate)], self.joint.optimizer, self.joint.schedule
        )
        rounds = self.gate_warmup * self.joint.parts
        return Phase(
            "gate",
            model,
            rounds,
            self.joint.batch,
            {"all": learner},
            self._joint_round,
            needs,
            self.joint.parts,
            (model.bank,),
        )

    def _joint(self, model: Mixture, needs: tuple[str, ...]) -> Phase:
        groups = [Group(list(model.bank.parameters())), Group(list(model.gate.parameters()), self.gate_learning_rate)]
        learner = Learner(groups, self.joint.optimizer, self.joint.schedule)
        rounds = self.joint.epochs * self.joint.parts
        return Phase("joint", model, rounds, self.joint.batch, {"all": learner}, self._joint_round, needs, self.joint.parts)


def _health(losses: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """What the journal keeps of a joint step: the three losses, and whether the gate is collapsing."""
    clean, fgsm, pgd = losses
    entropy = -(weights * weights.clamp(min=1e-12).log()).sum(1).mean()
    return {
        "loss_clean": clean,
        "loss_fgsm": fgsm,
        "loss_pgd": pgd,
        "gate_entropy": entropy,
        "gate_largest_weight": weights.mean(0).amax(),
    }
