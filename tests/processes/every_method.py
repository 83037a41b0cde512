"""Two updates of every phase of every method as the method itself asks for them, and the weights after them; all goes to a file.

python every_method.py FILE, alone or under torchrun: the ranks share each batch. Double precision; batch-norm, which sees its own
rank's images, on its running statistics. Immunity's mutual information is that of a batch, no mean over images: left out here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "methods"))
from tiny_methods import Repeated, batch, build, tiny

from dwf.core import ranks
from dwf.core.types import Batch
from dwf.methods import METHODS
from dwf.training.mover import Mover

CHANGES = {"immunity": {"diversity": 0.0}}
IMAGES = 16


def main(file: Path) -> None:
    """Step and dump."""
    with ranks.together(torch.device("cpu")):
        moved = {f"{kind}/{name}": tensor for kind in METHODS for name, tensor in stepped(kind).items()}
        if ranks.rank() == 0:
            save_file({**moved, "ranks": torch.tensor(ranks.world())}, file)


def stepped(kind: str) -> dict[str, Tensor]:
    """Phase and tensor -> how far the phase's updates have moved it."""
    found, one = {}, batch(IMAGES)
    mine = Batch(ranks.share(one.x).double(), ranks.share(one.y), ranks.share(one.index))
    method = tiny(kind, **CHANGES.get(kind, {}))
    for phase in method.phases(build(method).double().eval()):
        before = {name: tensor.clone() for name, tensor in phase.subject.state_dict().items()}
        movers = {name: Mover(learner) for name, learner in phase.learners.items()}
        for update in phase.round(phase.subject, Repeated(mine, 2, torch.float64)):
            movers[update.learner].take(update, 0.5)
        found |= {f"{phase.name}/{name}": tensor - before[name] for name, tensor in phase.subject.state_dict().items()}
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
