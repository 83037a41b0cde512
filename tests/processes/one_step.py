"""One optimizer step in double precision on fixed images, batch-norm in eval mode, and the scores after it; all goes to a file.

python one_step.py FILE, alone or under torchrun: the ranks share the batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from dwf.core import ranks
from dwf.core.types import Batch, Spec
from dwf.evaluation.validation import Validation
from dwf.methods import Dwf, Plain
from dwf.models import ResNet
from dwf.training.average import Average
from dwf.training.mover import Mover
from dwf.training.plan import Update

METHODS = {
    "plain": Plain(backbone=ResNet(depth=10, width=4)),
    "dwf": Dwf(backbone=ResNet(depth=10, width=4), benign=1, fgsm=1, pgd=1),
}


def main(file: Path) -> None:
    """Step and dump."""
    with ranks.together(torch.device("cpu")):
        stepped = {f"{kind}.{name}": tensor for kind in METHODS for name, tensor in step(kind).items()}
        if ranks.rank() == 0:
            save_file({**stepped, "ranks": torch.tensor(ranks.world())}, file)


def step(kind: str) -> dict[str, Tensor]:
    """All weights after one step of the method's last phase, their average, how far that differs between ranks, and scores."""
    torch.manual_seed(0)
    method = METHODS[kind]
    spec = Spec(classes=tuple("abcde"), channels=3, height=16, width=16, mean=(0.5,) * 3, std=(0.2,) * 3)
    model = method.model(spec).double().eval()
    x, y = torch.rand(16, 3, 16, 16, dtype=torch.float64), torch.arange(16) % 5
    mover = Mover(method.phases(model)[-1].learners["all"], clip=1.0)
    average = Average(model, 0.9)
    mover.take(Update(F.cross_entropy(model(ranks.share(x)), ranks.share(y))), 0.0)
    average.take()
    mean = {name: tensor.clone() for name, tensor in average.tensors.items()}
    ranks.average(mean.values())
    apart = torch.stack([(mean[name] - tensor).abs().max() for name, tensor in average.tensors.items()]).max()
    images = [Batch(x[rows], y[rows], rows) for rows in torch.arange(16).split(3)]  # the last holds one: a rank has none of it
    scores = Validation(steps=2).scorer(lambda: iter(images), torch.float64, 0)(model)
    scored = {f"scores.{name}": torch.tensor(score, dtype=torch.float64) for name, score in scores.items()}
    return {**model.state_dict(), **{f"average.{name}": t for name, t in average.tensors.items()}, **scored, "apart": apart}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
