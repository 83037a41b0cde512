"""Every member of METHODS made small by the types of its fields, images to train on, and a loop around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from dwf.attacks import Fgsm, Pgd
from dwf.core.journal import Listener
from dwf.core.seeds import Noise, derive
from dwf.core.settings import Settings
from dwf.core.types import Batch, Spec
from dwf.data import Data, Digits, ordered, subset
from dwf.evaluation.validation import Validation
from dwf.methods import METHODS, RtEr
from dwf.models import Gate, ResNet
from dwf.run import Run
from dwf.training.loop import Options
from dwf.training.optim import Recipe, Sgd
from dwf.training.plan import Draw, Phase
from dwf.verbs import train

TEN = Spec(classes=tuple("0123456789"), channels=1, height=16, width=16, mean=(0.3,), std=(0.35,))
FOUR = Spec(classes=("a", "b", "c", "d"), channels=3, height=32, width=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
SMALL: dict[type, Settings] = {
    ResNet: ResNet(depth=10, width=2),
    Recipe: Recipe(epochs=3, batch=20, optimizer=Sgd(learning_rate=0.05)),
    Gate: Gate(hidden=8),
    Fgsm: Fgsm(),
    Pgd: Pgd(steps=2),
}
SMALL[RtEr] = RtEr(backbone=SMALL[ResNet], experts=2, attack=SMALL[Pgd], recipe=SMALL[Recipe])
"""What stands for a default of this type. A method of other parts is tested with the defaults of those."""
FEWER: dict[str, Any] = {"fgsm": 1, "pgd": 1, "pgd_steps": (1, 2), "gate_warmup": 1, "steps": 2, "replays": 3}
"""Fields whose defaults are large, where a method has them."""


def tiny(kind: str, **changes: Any) -> Any:
    """A member of METHODS, small; `changes` win."""
    defaults = METHODS[kind]()
    fields = type(defaults).model_fields
    small = {name: SMALL[type(value)] for name in fields if type(value := getattr(defaults, name)) in SMALL}
    fewer = {name: value for name, value in FEWER.items() if name in fields}
    return METHODS[kind](**{**small, **fewer, **changes})


def batch(count: int = 20) -> Batch:
    """Digits, 8 x 8 pixels."""
    (whole,) = ordered(subset(Digits(size=8)("train"), count, 0), count)
    return whole


EIGHT = TEN.model_copy(update={"height": 8, "width": 8})
"""What `batch` holds."""


class Repeated:
    """The same batch again and again, as a phase sees it."""

    def __init__(self, one: Batch, times: int, precision: torch.dtype = torch.float32, seed: int = 0) -> None:
        self.one, self.times, self.precision, self.seed = one, times, precision, seed

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[Draw]:
        for number in range(self.times):
            noise = Noise(derive(self.seed, "noise", number), self.one.index)
            yield Draw(self.one.x, self.one.y, noise, Random(derive(self.seed, number)), number / self.times)


def build(method: Any, spec: Spec = EIGHT) -> nn.Module:
    """The same model every time."""
    torch.manual_seed(0)
    return method.model(spec)


def ready(phase: Phase) -> nn.Module:
    """The subject as the loop hands it over: training, what is frozen excepted."""
    phase.subject.train()
    for module in phase.frozen:
        module.eval().requires_grad_(False)
    return phase.subject


def norms(model: nn.Module) -> dict[str, int]:
    """How many training forwards each batch-norm has seen."""
    return {name: int(buffer) for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")}


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights and buffers."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def run(method: Any, **options: Any) -> Run:
    """A whole run of seconds."""
    return Run(
        data=Data(source=Digits(size=8), limit=120, crop=1, flip=False),
        method=method,
        train=Options(**options),
        validation=Validation(samples=20, steps=1),
    )


class Killed(Exception):
    """Somebody pulled the plug."""


def killer(after: int, event: str = "round") -> Listener:
    """A listener that pulls the plug at the `after`-th record of a kind."""
    seen = 0

    def listen(record: Any) -> None:
        nonlocal seen
        seen += record["event"] == event
        if seen == after:
            raise Killed

    return listen


def trained(chosen: Run, folder: Path, listeners: Sequence[Listener] = (), *, resume: bool = False) -> bytes:
    """The finished run's model file."""
    train(chosen, folder, device="cpu", resume=resume, listeners=listeners)
    return (folder / "model.safetensors").read_bytes()
