"""DWF, "Divided We Fall" (arXiv 2512.20821): experts trained apart on their own regimes, then jointly, end to end, with a gate.

Model (eqs 1, 2):  w(x) = softmax(g(x));  z(x) = sum_i w_i(x) f_i(x).
Phase 1:  benign expert CE(f(x), y);  FGSM expert CE(f(x'_eps), y), eps drawn a batch;  PGD expert CE(f(x'_K), y), K drawn a batch.
Phase 2:  L = (1 / 3B) sum_x [ CE(z(x), y) + CE(z(x'_FGSM), y) + CE(z(x'_PGD), y) ], both attacks on the complete mixture.
What the paper leaves open is a field below with its default; docs/paper-to-code.md lists what is stated and what is ours. Those
under "Savings" and "Ablations" leave the paper: each makes training cheaper, or takes a part away or puts another in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.seeds import own_stream
from dwf.core.settings import Length, PixelFraction, Settings
from dwf.core.types import Spec, Threat, usual_step
from dwf.methods.plain import clean_round, single_phase
from dwf.methods.regimes import REGIMES, Regime, Regimes, Start
from dwf.methods.trades import surrogate, worst_neighbours
from dwf.models import AttackCopy, Backbone, ExpertBank, Gate, Mixture, ResNet
from dwf.models.bank import Featured
from dwf.models.mixture import Mixing
from dwf.training.optim import Recipe, Sgd
from dwf.training.plan import Batches, Group, Learner, Passes, Phase, Update

NonEmpty = Annotated[tuple[PixelFraction, ...], Field(min_length=1)]
"""Radii to draw from."""
USES = {
    "benign": (),
    "fgsm": ("fgsm_eps", "fgsm_start", "radius_ramp", "batch_norm"),
    "pgd": ("pgd_threat", "pgd_step", "pgd_steps", "pgd_start", "steps_ramp", "radius_ramp", "batch_norm"),
    "trades": ("pgd_threat", "pgd_step", "pgd_steps", "steps_ramp", "radius_ramp", "batch_norm", "trades_beta"),
}
"""Kinds of experts, in their order, and the settings that decide what each learns, besides those of all."""
_ALWAYS = ("kind", "backbone", "backbones", "experts", "pretrain")


class Dwf(Settings):
    """Experts trained apart on clean, FGSM and PGD images, then together with a soft gate; nine ResNet-18 in the paper.

    Passes of the joint phase are those of all experts.
    """

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
    fgsm_start: Start = "image"
    """Where FGSM starts (not stated; "image" invites catastrophic overfitting; from "uniform" on, the step is 1.25 eps)."""
    pgd_threat: Threat = Threat()
    """Of the PGD images (radius not stated; 8/255)."""
    pgd_step: Length = Field(default_factory=lambda given: usual_step(given["pgd_threat"]))
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

    # Savings
    pgd_start: Start = "uniform"
    """Where PGD starts. At the image, where FGSM starts too, both take their first gradient together in the joint phase."""
    steps_ramp: float = Field(default=0.0, ge=0, le=1)
    """Share of an expert's training over which K grows from 1 to what is drawn. The joint phase attacks at full strength."""
    radius_ramp: float = Field(default=0.0, ge=0, le=1)
    """Share of an expert's training over which its radii, and PGD's step size with them, grow from 0."""
    warm_start: Literal["none", "benign", "kind"] = "none"
    """Who starts from a trained expert: "benign", all attacked ones from `benign-1`; "kind", all of a kind from its first."""
    warm: Recipe | None = None
    """How those are trained, which need less; None: like the others."""

    # Ablations
    trades: int = Field(default=0, ge=0)
    """Experts trained by TRADES, on the PGD images' threat, step size and numbers of steps."""
    trades_beta: float = Field(default=6.0, ge=0)
    """Weight of the divergence in their loss."""
    backbones: tuple[Backbone, ...] = ()
    """One for each expert, in the order benign, FGSM, PGD, TRADES; empty: `backbone` for all."""
    mixing: Mixing = "logits"
    """What the gate's weights sum."""
    pretrain: bool = True
    """False: the experts enter the joint phase untrained."""
    freeze_experts: bool = False
    """True: only the gate learns in the joint phase, which a uniform gate then does not have."""
    joint_regimes: tuple[Regime, ...] = Field(default=REGIMES, min_length=1)
    """Of the images in each joint step."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self._names:
            raise ValueError("a mixture needs experts: 'benign', 'fgsm', 'pgd' and 'trades' are all 0; raise one")
        if self.backbones and len(self.backbones) != self._experts:
            raise ValueError(f"'backbones' lists {len(self.backbones)} nets for {self._experts} experts; list one for each")
        if self.freeze_experts and not self.pretrain:
            raise ValueError("'freeze_experts' is true and 'pretrain' is false, so that no expert would ever learn; change one")
        if self.gate_warmup and not self._gate_learns:
            raise ValueError(
                f"'gate_warmup' is {self.gate_warmup}, but a gate that reads nothing has nothing to learn; set it to 0"
            )
        if len(set(self.joint_regimes)) < len(self.joint_regimes):
            raise ValueError(f"'joint_regimes' is {', '.join(self.joint_regimes)}; name each regime once")
        return self

    @model_validator(mode="after")
    def _savings_fit(self) -> Self:
        eased = {"steps_ramp": ("pgd", "trades"), "radius_ramp": ("fgsm", "pgd", "trades")}
        for name, kinds in eased.items():
            if getattr(self, name) and not (self.pretrain and any(getattr(self, kind) for kind in kinds)):
                raise ValueError(f"'{name}' is {getattr(self, name)}, but no expert is pretrained on such attacks; set it to 0")
        sources = {name: source for name in self._names if (source := self._source(name))}
        if self.warm_start != "none" and not (self.pretrain and sources):
            raise ValueError(f"'warm_start' is '{self.warm_start}', but no expert is pretrained from another; set it to 'none'")
        nets = dict(zip(self._names, self.backbones, strict=False))
        for name, source in sources.items():
            if source not in self._names:
                raise ValueError(f"'warm_start' is '{self.warm_start}', but there is no expert {source}; raise 'benign'")
            if nets and nets[name] != nets[source]:
                raise ValueError(f"{name} cannot start from {source}, whose net in 'backbones' is another; give both the same")
        return self

    def _source(self, name: str) -> str:
        """The trained expert that this one starts from, if any."""
        kind, _, number = name.partition("-")
        first = "benign-1" if self.warm_start == "benign" and kind != "benign" else ""
        return f"{kind}-1" if self.warm_start == "kind" and number != "1" else first

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(f"{kind}-{number + 1}" for kind in USES for number in range(getattr(self, kind)))

    @property
    def _experts(self) -> int:
        return len(self._names)

    @property
    def _gate_learns(self) -> bool:
        return self.gate.reads != "nothing"

    def model(self, spec: Spec) -> nn.Module:
        """The mixture; experts stand in the order benign, FGSM, PGD, TRADES. `pgd-1` starts from the same weights beside any."""
        experts = []
        for name, backbone in zip(self._names, self.backbones or (self.backbone,) * self._experts, strict=True):
            with own_stream(name):
                experts.append(backbone(spec))
        return Mixture(ExpertBank(experts), self.gate(spec, len(experts), self._features(experts)), self.mixing)

    def _features(self, experts: Sequence[nn.Module]) -> int:
        if self.gate.reads != "features":
            return 0
        for expert in experts:
            if not isinstance(expert, Featured):
                name = type(expert).__name__
                raise Refused(f"a gate that reads features needs experts that tell theirs, which {name} does not; use a ResNet")
        return sum(expert.head.in_features for expert in experts if isinstance(expert, Featured))

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """Algorithm 1 and 2: every expert by itself; algorithm 3: everything together."""
        assert isinstance(model, Mixture)
        phases = list(self._apart(dict(zip(self._names, model.bank, strict=True)))) if self.pretrain else []
        before = tuple(phase.name for phase in phases)
        if self.gate_warmup:
            phases.append(self._together("gate", model, self.gate_warmup, before, frozen=True))
            before = (*before, "gate")
        if self._gate_learns or not self.freeze_experts:
            phases.append(self._together("joint", model, self.joint.epochs, before, frozen=self.freeze_experts))
        return phases

    def _apart(self, experts: Mapping[str, nn.Module]) -> Iterator[Phase]:
        """A phase for each expert by itself; a warm one comes after its source and goes on from there."""
        rounds = {"benign": clean_round, "fgsm": self._fgsm_round, "pgd": self._pgd_round, "trades": self._trades_round}
        for name, expert in experts.items():
            kind, source = name.partition("-")[0], self._source(name)
            recipe = (source and self.warm) or self.experts
            phase = single_phase(name, expert, recipe, rounds[kind], ignores=_ignored(kind, warm=bool(source)))
            phase = replace(phase, grows=kind in ("pgd", "trades") and self.steps_ramp > 0)
            yield replace(phase, needs=(source,), start=experts[source]) if source else phase

    def cost(self) -> Mapping[str, Passes]:
        """An expert's phase trains one net; `gate` and `joint` run the whole mixture on an image of each regime."""
        steps, attacks = self._eased.mean_steps, self._regimes.gradients(self.joint_regimes)
        experts = {"benign": (1, 1), "fgsm": (2, 2), "pgd": (steps + 1, steps + 1), "trades": (steps + 3, steps + 2)}
        passes = {kind: Passes(*each) for kind, each in experts.items() if self.pretrain and getattr(self, kind)}
        images = len(self.joint_regimes)
        gate_only = Passes(attacks + images, attacks)  # nothing flows back into the experts but the attacks' gradients
        if self.gate_warmup:
            passes["gate"] = gate_only
        if self._gate_learns or not self.freeze_experts:
            passes["joint"] = gate_only if self.freeze_experts else Passes(attacks + images, attacks + images)
        return passes

    def _fgsm_round(self, expert: nn.Module, batches: Batches) -> Iterator[Update]:
        victim, regimes = self._victim(expert, batches), self._eased
        for batch in batches:
            yield Update(F.cross_entropy(expert(regimes.fgsm(victim(), batch)), batch.y))

    def _pgd_round(self, expert: nn.Module, batches: Batches) -> Iterator[Update]:
        victim, regimes = self._victim(expert, batches), self._eased
        for batch in batches:
            yield Update(F.cross_entropy(expert(regimes.pgd(victim(), batch)), batch.y))

    def _trades_round(self, expert: nn.Module, batches: Batches) -> Iterator[Update]:
        victim, regimes = self._victim(expert, batches), self._eased
        for batch in batches:
            threat, step, steps = regimes.pgd_strength(batch)
            worst = worst_neighbours(victim(), batch.x, batch.noise, threat=threat, steps=steps, step=step)
            yield surrogate(expert, batch.x, worst, batch.y, self.trades_beta)

    def _joint_round(self, mixture: nn.Module, batches: Batches) -> Iterator[Update]:
        """Algorithm 3. One concatenated forward pass, so batch-norm sees the mixed batch that the paper describes."""
        assert isinstance(mixture, Mixture)
        victim, regimes = self._victim(mixture, batches), self.joint_regimes
        for batch in batches:
            routing = mixture.route(torch.cat(self._regimes.images(regimes, victim(), batch)))
            labels = batch.y.repeat(len(regimes))
            losses = F.cross_entropy(routing.logits, labels, reduction="none").view(len(regimes), -1).mean(1)
            log = {f"loss_{regime}": loss for regime, loss in zip(regimes, losses.detach(), strict=True)}
            yield Update(losses.mean(), log={**log, **_health(routing.weights.detach())})

    @property
    def _regimes(self) -> Regimes:
        """The images of the joint phase."""
        return Regimes(self.fgsm_eps, self.fgsm_start, self.pgd_threat, self.pgd_step, self.pgd_steps, self.pgd_start)

    @property
    def _eased(self) -> Regimes:
        """The images of experts that learn by themselves: easier ones first, where that is asked for."""
        return replace(self._regimes, steps_ramp=self.steps_ramp, radius_ramp=self.radius_ramp)

    def _victim(self, model: nn.Module, batches: Batches) -> Callable[[], nn.Module]:
        """What the attacks ascend, with the present weights at every call."""
        return AttackCopy(model, batches.precision, batch_statistics=self.batch_norm == "batch").refresh

    def _together(self, name: str, model: Mixture, epochs: int, needs: tuple[str, ...], *, frozen: bool) -> Phase:
        """A phase of the whole mixture; with `frozen`, its experts stay as they are."""
        recipe = self.joint
        groups = [] if frozen else [Group(list(model.bank.parameters()))]
        if self._gate_learns:
            groups.append(Group(list(model.gate.parameters()), self.gate_learning_rate))
        learner = Learner(groups, recipe.optimizer, recipe.schedule)
        rounds, still = epochs * recipe.parts, (model.bank,) if frozen else ()
        phase = Phase(name, model, rounds, recipe.batch, {"all": learner}, self._joint_round, needs, recipe.parts, still)
        return replace(phase, goal="sa" if self.joint_regimes == ("clean",) else "ra")


def _health(weights: Tensor) -> dict[str, Tensor]:
    """What the journal keeps of the weights (B, K) of a joint step: whether the gate is collapsing."""
    entropy = -(weights * weights.clamp(min=1e-12).log()).sum(1).mean()
    return {"gate_entropy": entropy, "gate_largest_weight": weights.mean(0).amax()}


def _ignored(kind: str, *, warm: bool) -> tuple[str, ...]:
    """Settings that an expert of this kind, trained by itself, does not depend on but through its first weights."""
    counting = {*_ALWAYS, *USES[kind], *(("warm_start", "warm") if warm else ())}
    return tuple(name for name in Dwf.model_fields if name not in counting)
