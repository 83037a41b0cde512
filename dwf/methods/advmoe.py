"""ADVMoE (Zhang et al., ICCV 2023, arXiv 2308.10110): one hard router, E paths of convolutions, trained in turn by TRADES.

Model:  scores r(x);  path e = argmax r(x);  logits f(x) of the net whose 3x3 convolutions are those of path e. Stem, batch-norm,
projections and head are shared. Per batch, with KL(a || b) between softmax a and softmax b, in log space:
    x' = the image moved by two steps up  KL(f(x) || f(x')) + KL(r(x) || r(x'))
    paths:   CE(f(x), y) + beta KL(f(x) || f(x'))
    router:  guidance CE(r(x), y mod E) + beta KL(r(x) || r(x')),  x' made again against the new paths
The router's loss is the released code's, from which the published numbers come; the paper's bi-level problem has the paths' loss
there, its gradient handed straight through the choice, which is a setting. Deviations: docs/methods/advmoe.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from dwf.attacks.engine import ascend, end
from dwf.attacks.losses import divergence
from dwf.core.settings import Length, Settings
from dwf.core.types import Routing, Spec, Threat
from dwf.methods.trades import beside
from dwf.models import AttackCopy, ResNet
from dwf.models.layers import ConvNorm
from dwf.models.resnet import BasicBlock, ConvNet
from dwf.training.optim import Recipe
from dwf.training.plan import Batches, Draw, Group, Learner, Passes, Phase, Update

GUIDANCE = 6.0
"""Of the released code."""


class Advmoe(Settings):
    """A hard router picks one path of convolutions for each image; router and paths learn in turn, by TRADES.

    Passes of one path an image: 2 (K + 1) to attack twice with K steps, 2 to train the paths. The router's own, not counted
    among them: 2 (K + 1) + 4 forwards, 2 K + 2 backwards.
    """

    kind: Literal["advmoe"] = "advmoe"
    backbone: ResNet = ResNet(depth=18, width=32)
    """Of basic blocks. Half the width of the dense net, so that two paths have about half its parameters."""
    router: ResNet = ResNet(depth=20, width=16)
    experts: int = Field(default=2, ge=2)
    """Paths E."""
    threat: Threat = Threat()
    steps: int = Field(default=2, ge=1)
    step: Length = 5 / 255
    beta: float = Field(default=6.0, ge=0)
    """TRADES' weight of the divergence, for paths and router."""
    router_loss: Literal["labels", "straight-through"] = "labels"
    """What the router learns from: the label modulo E and the stability of its scores, as in the released code, or the loss of the
    whole system, as in the paper's bi-level problem. The latter tends to leave one path (docs/methods/advmoe.md)."""
    guidance: float = Field(default=GUIDANCE, ge=0)
    """Weight of the cross-entropy with the label modulo E; for the router loss "labels" only."""
    recipe: Recipe = Recipe()

    @model_validator(mode="after")
    def _basic_blocks(self) -> Advmoe:
        if self.backbone.depth == 50:
            raise ValueError("paths are made of 3x3 convolutions in basic blocks, which a ResNet-50 has not; use depth 10 to 34")
        return self

    @model_validator(mode="after")
    def _guided_by_labels(self) -> Advmoe:
        if self.router_loss != "labels" and self.guidance != GUIDANCE:
            raise ValueError(f"'guidance' is {self.guidance:g} and weighs labels, which 'router_loss' straight-through ignores; "
                             "leave it out, or set 'router_loss' to labels")  # fmt: skip
        return self

    def model(self, spec: Spec) -> nn.Module:
        """Router and paths."""
        net = self.backbone(spec)
        assert isinstance(net, ConvNet)
        paths = tuple(f"path-{number + 1}" for number in range(self.experts))
        return RoutedPaths(self.router(spec.model_copy(update={"classes": paths})), Paths(net, self.experts))

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """One phase, two learners in turn."""
        assert isinstance(model, RoutedPaths)
        recipe = self.recipe
        learners = {
            name: Learner([Group(list(module.parameters()))], recipe.optimizer, recipe.schedule)
            for name, module in (("paths", model.paths), ("router", model.router))
        }
        return [Phase("train", model, recipe.epochs * recipe.parts, recipe.batch, learners, self._round, parts=recipe.parts)]

    def cost(self) -> Mapping[str, Passes]:
        """Of the paths: two attacks, each a clean answer and K steps, an update, and one more if the router's goes through them."""
        updates = 2 if self.router_loss == "labels" else 4
        return {"train": Passes(2 * (self.steps + 1) + updates, 2 * self.steps + updates)}

    def _round(self, model: nn.Module, batches: Batches) -> Iterator[Update]:
        """Two updates a batch. Clean and attacked images share a pass, so batch-norm sees both."""
        assert isinstance(model, RoutedPaths)
        victim = AttackCopy(model, batches.precision)
        for batch in batches:
            logits, scores = model.answers(torch.cat([batch.x, self._attacked(victim.refresh(), batch, 0)]))
            yield Update(self._trades(logits, batch.y), "paths", log={"largest_share": largest_share(scores)})
            x = torch.cat([batch.x, self._attacked(victim.refresh(), batch, 1)])
            if self.router_loss == "straight-through":
                logits, scores = model.answers(x, straight_through=True)
                loss = self._trades(logits, batch.y)
            else:
                scores = model.scores(x)
                clean, moved = scores.chunk(2)
                labels = F.cross_entropy(clean, batch.y % self.experts)
                loss = self.guidance * labels + self.beta * divergence(clean, moved).mean()
            yield Update(loss, "router", log={"largest_share": largest_share(scores)})

    def _trades(self, logits: Tensor, y: Tensor) -> Tensor:
        """CE(f(x), y) + beta KL(f(x) || f(x')), of logits (2B, classes) of clean and then of attacked images."""
        clean, moved = logits.chunk(2)
        return F.cross_entropy(clean, y) + self.beta * divergence(clean, moved).mean()

    def _attacked(self, victim: AttackCopy, batch: Draw, turn: int) -> Tensor:
        """The images (B, C, H, W) after the last step; each turn has a start of its own."""
        system = victim.inner
        assert isinstance(system, RoutedPaths)
        with torch.no_grad():
            logits, scores = system.answers(batch.x)

        def loss(x: Tensor) -> Tensor:
            there = system.answers(x)
            return divergence(logits, there[0]) + divergence(scores, there[1])

        steps, step, noise = self.steps, self.step, batch.noise
        return end(ascend(loss, batch.x, self.threat, steps=steps, step=step, noise=noise, start=beside, restart=turn))


def largest_share(scores: Tensor) -> Tensor:
    """Share of the images on the most crowded path: 1 is a collapse."""
    return F.one_hot(scores.argmax(1), scores.shape[1]).float().mean(0).amax()


class RoutedPaths(nn.Module):
    """The chosen path's logits: (B, C, H, W) in [0, 1] -> (B, classes). The choice is hard and has no gradient.

    Its straight-through gradient: a layer computes sum_k h_k conv_k(a) with a one-hot h, so the loss's derivative by h_e of the
    chosen path e is that by a factor 1 on the layer's output; summed over the layers, the score r_e receives it. The derivatives by
    the other entries need the other paths' convolutions, which are not computed: they count as zero, as in the released code,
    which cuts the other channels out.
    """

    def __init__(self, router: nn.Module, paths: Paths) -> None:
        super().__init__()
        self.router = router
        self.paths = paths

    def scores(self, x: Tensor) -> Tensor:
        """The router's scores r (B, E), in fp32 at least."""
        scores: Tensor = self.router(x)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def answers(self, x: Tensor, *, straight_through: bool = False) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) of the chosen path and scores (B, E), at the price of one path."""
        scores = self.scores(x)
        if not straight_through:
            return self.paths(x, scores.argmax(1)), scores
        best, chosen = scores.max(1)
        return self.paths(x, chosen, 1 + (best - best.detach())), scores  # exactly 1, however large the score

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of the chosen path."""
        return self.answers(x)[0]

    def route(self, x: Tensor) -> Routing:
        """Logits of the chosen path, weights one-hot, every path's opinion."""
        chosen = self.scores(x).argmax(1)
        opinions = self._opinions(x)
        logits = opinions[torch.arange(len(chosen), device=chosen.device), chosen]
        return Routing(logits, F.one_hot(chosen, opinions.shape[1]).to(opinions.dtype), opinions)

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        """Opinions summed with weights softmax(r / temperature), differentiable in the scores; hard as it goes to 0."""
        weights, opinions = torch.softmax(self.scores(x) / temperature, dim=1), self._opinions(x)
        return Routing((weights.unsqueeze(2) * opinions).sum(1), weights, opinions)

    def expert(self, x: Tensor, number: int) -> Tensor:
        """The logits (B, classes) of one path."""
        out: Tensor = self.paths(x, torch.full(x.shape[:1], number, device=x.device))
        return out

    def _opinions(self, x: Tensor) -> Tensor:
        return torch.stack([self.expert(x, number) for number in range(self.paths.experts)], dim=1)


class Paths(nn.Module):
    """`net` with E sets of 3x3 convolutions in its blocks; everything else is shared."""

    def __init__(self, net: ConvNet, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.normalize, self.stem, self.head = net.normalize, net.stem, net.head
        self.blocks = nn.ModuleList(PathBlock(block, experts) for block in net.blocks)

    def forward(self, x: Tensor, path: Tensor, factor: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) in [0, 1], path (B,) in 0 ... E-1 -> logits (B, classes), in fp32 at least.

        `factor` (B,): multiplies each image in every layer that has paths; ones, whose gradient is wanted.
        Images are sorted by path once, so that each path's are a slice: a convolution computes no image twice.
        """
        order = path.argsort(stable=True)
        counts = torch.bincount(path, minlength=self.experts).tolist()
        x = F.relu_(self.stem(self.normalize(x[order]).to(self.head.weight.dtype)))
        factor = None if factor is None else factor[order].view(-1, 1, 1, 1)
        for block in self.blocks:
            x = block(x, counts, factor)
        logits: Tensor = self.head(x.mean((2, 3)))[order.argsort()]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


class PathBlock(nn.Module):
    """A basic block with convolutions for each path."""

    def __init__(self, block: nn.Module, experts: int) -> None:
        super().__init__()
        assert isinstance(block, BasicBlock)
        self.first, self.second = PathConvNorm(block.first, experts), PathConvNorm(block.second, experts)
        self.shortcut = block.shortcut

    def forward(self, x: Tensor, counts: Sequence[int], factor: Tensor | None) -> Tensor:
        """(B, inputs, H, W) sorted by path, with how many are on each -> (B, outputs, H/stride, W/stride)."""
        out = self.second(F.relu_(self.first(x, counts, factor)), counts, factor)
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))


class PathConvNorm(nn.Module):
    """A convolution for each path, then one batch-norm over all images."""

    def __init__(self, pair: ConvNorm, experts: int) -> None:
        super().__init__()
        conv = pair.conv
        self.convs = nn.ModuleList(
            nn.Conv2d(conv.in_channels, conv.out_channels, 3, conv.stride[0], padding=1, bias=False) for _ in range(experts)
        )
        self.norm = pair.norm

    def forward(self, x: Tensor, counts: Sequence[int], factor: Tensor | None) -> Tensor:
        """Convolve slice by slice, multiply by `factor` (B, 1, 1, 1) if there is one, and normalise."""
        parts = zip(self.convs, torch.split(x, list(counts)), strict=True)
        out = torch.cat([conv(part) for conv, part in parts if len(part)])
        normed: Tensor = self.norm(out if factor is None else out * factor.to(out.dtype))
        return normed
