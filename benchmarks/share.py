"""How much of the processor's matrix rate a training step and a PGD step reach.

The matrix rate is the best that PyTorch's own bf16 (fp32 where the processor has no bf16) product of two square matrices reaches in
the same run. Operations are those of the convolutions and matrix products alone: batch-norm, activations, attacks' projections and
the optimizer count as none, and the time they take counts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from harness import alternate, arguments, publish, spread
from steps import CPU, attack_step, images, matrix_rate, spec

from dwf.core import heap
from dwf.models import ResNet
from dwf.models.compiled import can_compile, compile_nets
from dwf.models.cost import cost
from dwf.models.inference import attack_precision
from dwf.training.loop import advance
from dwf.training.mover import Mover
from dwf.training.optim import Constant, Sgd
from dwf.training.plan import Group, Learner, Update


def training_step(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor):  # noqa: ANN201
    """Forward, backward and optimizer step of the loop."""
    mover = Mover(Learner([Group(list(net.parameters()))], Sgd(learning_rate=0.01), Constant()))

    def step() -> None:
        net.train()
        update = advance(iter(Update(F.cross_entropy(net(part), y)) for part in [x]), attack_precision(x.device), x.device)
        assert update is not None
        mover.take(update, 0.0)

    return step


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    heap.keep()
    depth, width, repeats = (10, 16, 2) if chosen.quick else (chosen.depth, chosen.width, chosen.repeats)
    backbone = ResNet(depth=depth, width=width)
    x, y = images(chosen.batch)
    forward = 2 * cost(backbone, spec()).multiply_adds * chosen.batch
    steps, operations = {}, {}
    for name, hasten in {"": None, ", compiled": compile_nets}.items():
        if hasten and (chosen.quick or not can_compile("cpu")):
            continue
        net = backbone(spec()).to(memory_format=torch.channels_last)
        steps[f"PGD step{name}"], operations[f"PGD step{name}"] = attack_step(net, x, y, hasten), 2 * forward
        if hasten:
            hasten(net)
        steps[f"training step{name}"], operations[f"training step{name}"] = training_step(net, x, y), 3 * forward
    rate, seconds = matrix_rate(repeats), alternate(steps, repeats, warmup=2)
    rates = {name: operations[name] / spread(values)["median"] for name, values in seconds.items()}
    figures = {
        "settings": {"depth": depth, "width": width, "batch": chosen.batch, "precision": str(attack_precision(CPU))},
        "matrix_rate": rate,
        "rates": rates,
        "share_of_matrix_rate": {name: found / rate for name, found in rates.items()},
    }
    publish("share", figures, chosen.json)


if __name__ == "__main__":
    main()
