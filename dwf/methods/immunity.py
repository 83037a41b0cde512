"""Immunity (arXiv 2402.18787): a gate whose rows are switched at random, over experts that are to look at different things.

Model:  g(x) = softmax(W pool(x) + b);  z(x) = sum_i g_pi(i)(x) f_i(x), the permutation pi drawn for each image at every pass.
Heatmap of expert i for the true class y (Grad-CAM):  H_i = relu(sum_k w_k A_i[k]),  w_k = mean_uv d f_i[y] / d A_i[k](u, v).
    L = CE(z, y) + mean_i CE(f_i, y) + l1 MI + l2 PS
MI is the mutual information of two experts' heat at one position, averaged over the pairs; PS is how far each heatmap's centre of
mass moves when the image is moved inside a ball. What the paper leaves open, and that is most: docs/methods/immunity.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from math import factorial
from random import Random
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from dwf.attacks import Pgd
from dwf.attacks.engine import uniform
from dwf.core.errors import Refused
from dwf.core.seeds import Noise
from dwf.core.settings import Length, Settings
from dwf.core.types import Routing, Spec, Threat, usual_step
from dwf.methods.plain import single_phase
from dwf.models import AttackCopy, Backbone, ExpertBank, Normalize, ResNet
from dwf.models.resnet import ConvNet
from dwf.training.optim import Recipe
from dwf.training.plan import Batches, Draw, Passes, Phase, Update

SIDE = 8
"""Least height and width of a heatmap: the positions of smaller ones are too few for a histogram."""
COLD = 1e-6
"""Heat that is next to none: such a map is not stretched, and its centre is that of the image."""
LISTED = factorial(4)
"""Permutations that evaluation holds one by one: all of up to four experts, else as many drawn ones."""


class Immunity(Settings):
    """A gate whose weights are switched at random, over experts that are taught to look at different things.

    With S attack steps, passes of all K experts: S + 2 forwards and S + 4 backwards an image.
    """

    kind: Literal["immunity"] = "immunity"
    backbone: Backbone = ResNet()
    experts: int = Field(default=4, ge=2)
    """K (not stated)."""
    pool: int = Field(default=8, ge=1)
    """The gate reads the image averaged down to pool x pixels (not stated)."""
    switched: float = Field(default=0.5, ge=0, le=1)
    """Share of the training images whose gate rows are permuted; at evaluation all are (not stated)."""
    bins: int = Field(default=8, ge=2)
    """Of the histograms that the mutual information is read from (estimator not stated)."""
    diversity: float = Field(default=0.1, ge=0)
    """l1, the weight of the mutual information (not stated)."""
    stability: float = Field(default=1.0, ge=0)
    """l2, the weight of the displacement (not stated)."""
    threat: Threat = Threat()
    """The ball in which an image is moved (not stated)."""
    steps: int = Field(default=0, ge=0)
    """0 moves images at random and learns the clean ones; above, so many PGD steps move them, and the moved ones are learnt."""
    step: Length = Field(default_factory=lambda given: usual_step(given["threat"]))
    """Size of each of the steps."""
    recipe: Recipe = Recipe()

    def model(self, spec: Spec) -> nn.Module:
        """The mixture. Raises `Refused` for a backbone or images that give no heatmaps."""
        bank = ExpertBank(self.backbone(spec) for _ in range(self.experts))
        return SwitchedMixture(bank, SwitchGate(spec, self.experts, self.pool), map_depth(bank[0], spec))

    def phases(self, model: nn.Module) -> Sequence[Phase]:
        """One phase, everything together."""
        return [replace(single_phase("train", model, self.recipe, self._round), goal="ra" if self.steps else "sa")]

    def cost(self) -> Mapping[str, Passes]:
        """The attack; one pass over images and moved images; two gradients of it, of which the heatmaps' ends at the maps."""
        return {"train": Passes(self.steps + 2, self.steps + 4)}

    def _round(self, model: nn.Module, batches: Batches) -> Iterator[Update]:
        """Images and moved images share a pass, so batch-norm sees both, once."""
        assert isinstance(model, SwitchedMixture)
        victim = AttackCopy(model, batches.precision)
        for batch in batches:
            switch = self._switch(batch.noise)
            yield self._update(model, batch, self._moved(victim, batch, switch), switch)

    def _switch(self, noise: Noise) -> Tensor:
        """A permutation (B, K) for each image, the identity for those that are not switched."""
        numbers = noise.uniform((self.experts + 1,), restart=1)  # restart 0 is the attack's
        identity = torch.arange(self.experts, device=numbers.device).expand(len(numbers), -1)
        return torch.where(numbers[:, :1] < self.switched, numbers[:, 1:].argsort(1), identity)

    def _moved(self, victim: AttackCopy, batch: Draw, switch: Tensor) -> Tensor:
        """The images (B, C, H, W) elsewhere in the ball: at random, or where PGD fools the model that is switched like that."""
        if self.steps == 0:
            return uniform(batch.x, self.threat, batch.noise, 0)
        system = victim.refresh().inner
        assert isinstance(system, SwitchedMixture)
        attack = Pgd(threat=self.threat, steps=self.steps, step=self.step)
        return attack(lambda x: system.under(x, switch).logits, batch.x, batch.y, batch.noise)

    def _update(self, model: SwitchedMixture, batch: Draw, moved: Tensor, switch: Tensor) -> Update:
        """The four losses. From the maps on all is fp32: gradients of gradients, and histograms, are no work for bf16."""
        maps = model.maps(torch.cat([batch.x, moved]))
        with torch.autocast(moved.device.type, enabled=False):
            opinions, heat = model.watched(maps, batch.y.repeat(2))
            learnt = 1 if self.steps else 0
            voices = opinions.chunk(2)[learnt]
            routing = mixed(voices, model.gate((batch.x, moved)[learnt]), switch)
            whole = F.cross_entropy(routing.logits, batch.y)
            apart = F.cross_entropy(voices.transpose(1, 2), batch.y[:, None].expand(-1, self.experts))
            information = mutual_information(heat.chunk(2)[learnt], self.bins)
            shift = displacement(*heat.chunk(2))
            loss = whole + apart + self.diversity * information + self.stability * shift
        log = {"loss_whole": whole, "loss_experts": apart, "mutual_information": information, "displacement": shift}
        return Update(loss, log={name: value.detach() for name, value in log.items()})


class SwitchGate(nn.Module):
    """g(x) = softmax(W pool(x) + b): (B, C, H, W) in [0, 1] -> weights (B, K), rows sum to 1."""

    def __init__(self, spec: Spec, experts: int, pool: int) -> None:
        super().__init__()
        self.normalize = Normalize(spec)
        self.pool = pool
        self.head = nn.Linear(spec.channels * pool * pool, experts)

    def scores(self, x: Tensor) -> Tensor:
        """Raw scores (B, K) in fp32 at least."""
        pooled = F.adaptive_avg_pool2d(self.normalize(x), self.pool).flatten(1)
        out: Tensor = self.head(pooled.to(self.head.weight.dtype))
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Weights (B, K) as trained, before any switch."""
        return torch.softmax(self.scores(x), dim=1)


class SwitchedMixture(nn.Module):
    """z(x) = sum_i g_pi(i)(x) f_i(x): (B, C, H, W) in [0, 1] -> logits (B, classes).

    Each pass draws a permutation for each image from torch's own generator: an inference is one image's, whatever its batch.
    """

    def __init__(self, bank: ExpertBank, gate: SwitchGate, blocks: int, held: Sequence[int] | None = None) -> None:
        """`blocks`: after how many of an expert's blocks heatmaps are read. `held`: a permutation for every pass; None draws."""
        super().__init__()
        self.bank = bank
        self.gate = gate
        self.blocks = blocks
        self.held = held

    def forward(self, x: Tensor) -> Tensor:
        """The mixed logits."""
        return self.route(x).logits

    def route(self, x: Tensor) -> Routing:
        """Mixed logits, the weights after the switch, and the experts' logits."""
        return self.under(x, self._switch(x))

    def surrogate(self, x: Tensor, temperature: float) -> Routing:
        """The same with the gate's scores divided by `temperature`."""
        return mixed(self.bank(x), torch.softmax(self.gate.scores(x) / temperature, dim=1), self._switch(x))

    def expert(self, x: Tensor, number: int) -> Tensor:
        """The logits (B, classes) of one expert."""
        opinion: Tensor = self.bank[number](x)
        return opinion.to(torch.promote_types(opinion.dtype, torch.float32))

    def under(self, x: Tensor, switch: Tensor) -> Routing:
        """The routing when image b's weights are permuted by `switch[b]` (B, K)."""
        return mixed(self.bank(x), self.gate(x), switch)

    @property
    def permutations(self) -> Sequence[tuple[int, ...]]:
        """All of them for up to four experts, the trained one first; 24 for more, drawn once and for all."""
        experts = range(len(self.bank))
        if factorial(len(experts)) <= LISTED:
            return tuple(permutations(experts))
        draw, listed = Random(0), {tuple(experts): None}
        while len(listed) < LISTED:
            listed[tuple(draw.sample(experts, len(experts)))] = None
        return tuple(listed)

    def fixed(self, permutation: Sequence[int]) -> SwitchedMixture:
        """This model, its own weights, switched by one permutation at every pass. Raises `Refused` for what is none."""
        if sorted(permutation) != list(range(len(self.bank))):
            raise Refused(f"{tuple(permutation)} is no permutation of {len(self.bank)} experts; give each of 0 ... K-1 once")
        return SwitchedMixture(self.bank, self.gate, self.blocks, tuple(permutation))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Each expert's feature maps (B, channels, h, w) that its heatmaps are read from."""

        def shown(net: nn.Module, x: Tensor) -> Tensor:
            return cast(ConvNet, net).maps(x, self.blocks)

        return [self.bank.ask(number, x, shown) for number in range(len(self.bank))]

    def watched(self, maps: Sequence[Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
        """Opinions (B, K, classes), and Grad-CAM heatmaps (B, K, h, w) >= 0 of the classes y (B,), from the experts' maps.

        Both can be differentiated (Selvaraju et al., ICCV 2017, equations 1 and 2).
        """
        maps = [one.to(torch.promote_types(one.dtype, torch.float32)) for one in maps]
        nets = [cast(ConvNet, net) for net in self.bank]
        opinions = torch.stack([net.answer(one, self.blocks) for net, one in zip(nets, maps, strict=True)], dim=1)
        named = opinions.gather(2, y[:, None, None].expand(-1, len(maps), 1))
        gradients = torch.autograd.grad(named.sum(), maps, create_graph=True)
        heat = [(gradient.mean((2, 3), keepdim=True) * one).sum(1) for gradient, one in zip(gradients, maps, strict=True)]
        return opinions, F.relu(torch.stack(heat, dim=1))

    def _switch(self, x: Tensor) -> Tensor:
        if self.held is not None:
            return torch.tensor(self.held, device=x.device).expand(len(x), -1)
        return torch.rand(len(x), len(self.bank), device=x.device).argsort(1)


def mixed(opinions: Tensor, weights: Tensor, switch: Tensor) -> Routing:
    """g_i <- g_pi(i): opinions (B, K, classes), the gate's weights (B, K) and permutations (B, K)."""
    switched = weights.gather(1, switch)
    return Routing((switched.unsqueeze(2) * opinions).sum(1), switched, opinions)


def mutual_information(heat: Tensor, bins: int) -> Tensor:
    """Of two experts' heat at one position, in nats, from 0 to log(bins): heatmaps (B, K, h, w) -> mean over pairs, a scalar.

    Soft histograms: each map is stretched to [0, 1], each value shared between its two nearest bins (a triangular kernel), and the
    joint table averaged over positions and images.
    """
    flat = heat.flatten(2)
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    level = (flat - low) / (high - low).clamp(min=COLD) * (bins - 1)
    share = (1 - (level.unsqueeze(3) - torch.arange(bins, device=heat.device)).abs()).clamp(min=0)  # (B, K, h w, bins)
    joint = torch.einsum("bipm,bjpn->ijmn", share, share) / (flat.shape[0] * flat.shape[2])
    apart = joint.sum(3, keepdim=True) * joint.sum(2, keepdim=True)
    # Where a cell is empty the logarithm is cut off: 0 log 0 is 0, and has a gradient.
    pairs = (joint * (joint.clamp(min=1e-12).log() - apart.clamp(min=1e-12).log())).sum((2, 3))  # (K, K)
    others = ~torch.eye(len(pairs), dtype=torch.bool, device=heat.device)
    return pairs[others].mean()


def displacement(heat: Tensor, moved: Tensor) -> Tensor:
    """Squared distance of the heatmaps' centres of mass, as a share of the side, averaged: (B, K, h, w) each -> a scalar."""
    return (centres(heat) - centres(moved)).square().sum(2).mean()


def centres(heat: Tensor) -> Tensor:
    """Expected row and column, as shares of height and width, with the heat as the distribution: (B, K, h, w) -> (B, K, 2)."""
    mass = heat + COLD
    mass = mass / mass.sum((2, 3), keepdim=True)
    rows, columns = (torch.arange(side, device=heat.device, dtype=heat.dtype) / side for side in heat.shape[2:])
    return torch.stack([mass.sum(3) @ rows, mass.sum(2) @ columns], dim=2)


def map_depth(net: nn.Module, spec: Spec) -> int:
    """After how many blocks a net has its deepest maps of at least 8 x 8: for 32 x 32 images, those of a ResNet-18's third stage.

    Raises `Refused` for a net that shows no maps, and for images smaller than that.
    """
    if not isinstance(net, ConvNet):
        raise Refused(
            f"method 'immunity' reads heatmaps off feature maps, which a {type(net).__name__} does not show; "
            "use backbone 'resnet', 'wide-resnet' or 'googlenet'"
        )
    if min(spec.height, spec.width) < SIDE:
        raise Refused(
            f"images of {spec.width} x {spec.height} give no heatmaps of {SIDE} x {SIDE}, which method 'immunity' needs at least; "
            "give larger ones"
        )
    with torch.no_grad():
        maps, depth = net.eval().maps(torch.zeros(1, spec.channels, spec.height, spec.width), 0), 0
        for block in net.blocks:
            maps = block(maps)
            if min(maps.shape[2:]) < SIDE:
                break
            depth += 1
    net.train()
    return depth
