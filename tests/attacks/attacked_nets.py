"""Small models to attack, and every registered attack in a few settings."""

import torch
from torch import Tensor, nn

from dwf.attacks import ATTACKS
from dwf.core.settings import Settings
from dwf.core.types import Spec, Threat
from dwf.models import Normalize

CLASSES = 5
SHAPE = (3, 8, 8)
SPEC = Spec(classes=tuple("abcde"), channels=3, height=8, width=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
THREATS = {
    "linf-small": Threat(eps=2 / 255),
    "linf-large": Threat(eps=0.3),
    "l2-small": Threat(norm="l2", eps=0.1),
    "l2-large": Threat(norm="l2", eps=3),
}
_SMALL = {"steps": 3, "draws": 2, "queries": 60, "searches": 2, "initial_c": 10.0, "confidence": 1000.0}
"""Keeps iterated attacks short, whichever of these an attack has. Nothing reaches the confidence: who minimises goes on moving."""
_ONLY_NORM = {"carlini-wagner": "l2"}
"""Attacks that know one norm."""
_VARIANTS = ({}, {"restarts": 2}, {"start": "uniform"}, {"start": "image"})
"""Each is tried on the attacks that have the setting."""


def build(kind: str, threat: Threat, **wanted: object) -> Settings:
    """The attack `kind` against `threat` (in its own norm if it has but one), with those of the wanted settings that it has."""
    member = ATTACKS[kind]
    threat = threat.model_copy(update={"norm": _ONLY_NORM.get(kind, threat.norm)})
    given = {**_SMALL, "step": threat.eps / 2, **wanted}
    return member.model_validate({"threat": threat, **{k: v for k, v in given.items() if k in member.model_fields}})


def cases(*threats: str) -> dict[str, Settings]:
    """By a readable name: every attack x these threats (all by default) x the variants that it has."""
    return {
        "-".join([kind, name, *map(str, variant.values())]): build(kind, THREATS[name], **variant)
        for kind, member in ATTACKS.items()
        for name in threats or THREATS
        for variant in _VARIANTS
        if set(variant) <= set(member.model_fields) and THREATS[name].norm == _ONLY_NORM.get(kind, THREATS[name].norm)
    }


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A convolutional net with normalisation, batch-norm that has seen images, and dropout; in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            Normalize(SPEC),
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(8 * 16, CLASSES),
        )
        for _ in range(3):
            model(torch.rand(32, *SHAPE))
    return model.to(dtype).eval()


def linear(seed: int = 0) -> nn.Module:
    """Logits (B, 5) = W x."""
    layer = nn.Linear(3 * 8 * 8, CLASSES, bias=False)
    layer.weight.data = torch.randn(CLASSES, 3 * 8 * 8, generator=torch.Generator().manual_seed(seed))
    return nn.Sequential(nn.Flatten(), layer)


def images(count: int = 6, seed: int = 1) -> tuple[Tensor, Tensor]:
    """x (B, 3, 8, 8) with some pixels exactly at the walls of the box, y (B,)."""
    source = torch.Generator().manual_seed(seed)
    x = (torch.rand(count, *SHAPE, generator=source) * 1.4 - 0.2).clamp(0, 1)
    return x, torch.randint(CLASSES, (count,), generator=source)
