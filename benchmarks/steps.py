"""Steps that several benchmarks time: a joint step of DWF and an attack step, as `dwf train` runs them, on random images."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from harness import alternate
from torch import Tensor, nn

from dwf.attacks import Pgd
from dwf.core.seeds import Noise
from dwf.core.types import Spec, Threat
from dwf.methods import Dwf
from dwf.models import AttackCopy, ResNet
from dwf.models.inference import attack_precision
from dwf.training.loop import advance
from dwf.training.mover import Mover
from dwf.training.optim import Recipe, Sgd
from dwf.training.plan import Draw

CPU = torch.device("cpu")
SIDES = (1024, 2048, 4096)
EPS, STEP, FGSM_EPS = 8 / 255, 2 / 255, 0.05
Hasten = Callable[[nn.Module], None]
"""What makes a model faster in place, such as `compile_nets`."""


def spec(size: int = 32) -> Spec:
    """Of CIFAR-10, or of larger images."""
    return Spec(classes=tuple("0123456789"), channels=3, height=size, width=size, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))


def images(count: int, size: int = 32, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Random pixels (count, 3, size, size), channels_last, and labels."""
    source = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, size, size, generator=source)
    return x.contiguous(memory_format=torch.channels_last).to(device), torch.randint(10, (count,), generator=source).to(device)


def dwf(depth: int, width: int, experts: int, steps: int, batch: int) -> Dwf:
    """The method with so many experts, whose attacks are always of the same strength."""
    fgsm = (experts - 1) // 2
    return Dwf(
        backbone=ResNet(depth=depth, width=width),
        benign=1,
        fgsm=fgsm,
        pgd=experts - 1 - fgsm,
        pgd_steps=(steps,),
        fgsm_eps=(FGSM_EPS,),
        joint=Recipe(epochs=1, batch=batch, optimizer=Sgd(learning_rate=0.01)),
    )


class OneBatch:
    """A round of a single batch (`plan.Batches`)."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.precision = attack_precision(x.device)
        self.draw = Draw(x, y, Noise.rows(0, len(y), x.device), Random(0), 0.0)

    def __len__(self) -> int:
        return 1

    def __iter__(self):  # noqa: ANN204
        yield self.draw


def matrix_rate(repeats: int, device: torch.device = CPU) -> float:
    """Operations a second of the fastest size."""
    best = 0.0
    for side in SIDES if device.type == "cpu" else (*SIDES, 8192):
        a, b = (torch.randn(side, side, device=device).to(attack_precision(device)) for _ in range(2))

        def product(a: torch.Tensor = a, b: torch.Tensor = b) -> None:
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize()

        best = max(best, 2 * side**3 / min(alternate({"": product}, repeats)[""]))
    return best


def joint_step(method: Dwf, x: Tensor, y: Tensor, hasten: Hasten | None = None, pieces: int = 1) -> Callable[[], None]:
    """One step of the method's last phase, by its own generator, on a batch in `pieces`; `hasten` is done to the model before."""
    torch.manual_seed(0)
    model = method.model(spec(x.shape[-1])).to(x.device, memory_format=torch.channels_last)
    if hasten:
        hasten(model)
    phase = method.phases(model)[-1]
    mover = Mover(phase.learners["all"], pieces)
    batches = [OneBatch(*piece) for piece in zip(x.chunk(pieces), y.chunk(pieces), strict=True)]

    def step() -> None:
        model.train()
        for batch in batches:
            updates = phase.round(model, batch)
            while (update := advance(updates, batch.precision, x.device)) is not None:
                mover.take(update, 0.0)

    return step


def attack_step(model: nn.Module, x: Tensor, y: Tensor, hasten: Hasten | None = None) -> Callable[[], None]:
    """One step of PGD on the fast copy of the model; `hasten` is done to the copy before."""
    copy = AttackCopy(model, attack_precision(x.device))
    if hasten:
        hasten(copy)
    pgd, noise = Pgd(threat=Threat(eps=EPS), steps=1, step=STEP), Noise.rows(0, len(y), x.device)

    def step() -> None:
        pgd(copy, x, y, noise)

    return step
