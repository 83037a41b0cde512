"""ADVMoE's inference: each image through its own path alone, against every path's filters computed and then masked.

Two paths of half the width, images of 32 x 32 in batches of 256, half of them on each path, in eval mode and fp32. The masked form
is a layer as the released code draws it: one convolution with the filters of all paths, of which each image keeps the chosen one's.
Both hold the same weights and give the same logits. FLOPs are two a multiply-add, in convolutions and matrix products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness import alternate, arguments, publish, spread
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dwf.core.types import Spec
from dwf.methods import Advmoe
from dwf.methods.advmoe import PathBlock, PathConvNorm, Paths, RoutedPaths
from dwf.models import ResNet

SPEC = Spec(classes=tuple("0123456789"), channels=3, height=32, width=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
IMAGES = 256


class Masked(nn.Module):
    """The logits of `paths`, with all filters computed."""

    def __init__(self, paths: Paths) -> None:
        super().__init__()
        self.paths = paths
        self.filters = {
            pair: torch.cat([conv.weight for conv in pair.convs]).contiguous(memory_format=torch.channels_last)
            for pair in paths.modules()
            if isinstance(pair, PathConvNorm)
        }
        """Weights (E x out, in, 3, 3) of each layer's paths together."""

    def forward(self, x: Tensor, path: Tensor) -> Tensor:
        """x (B, C, H, W) in [0, 1], path (B,) -> logits (B, classes)."""
        paths = self.paths
        x = F.relu_(paths.stem(paths.normalize(x)))
        for block in paths.blocks:
            x = self._block(block, x, path)
        logits: Tensor = paths.head(x.mean((2, 3)))
        return logits

    def _block(self, block: PathBlock, x: Tensor, path: Tensor) -> Tensor:
        out = self._layer(block.second, F.relu_(self._layer(block.first, x, path)), path)
        return F.relu_(out + (x if block.shortcut is None else block.shortcut(x)))

    def _layer(self, pair: PathConvNorm, x: Tensor, path: Tensor) -> Tensor:
        wide = F.conv2d(x, self.filters[pair], stride=pair.convs[0].stride, padding=1)
        each = wide.view(len(x), self.paths.experts, -1, *wide.shape[2:])  # (B, E, out, H, W)
        out: Tensor = pair.norm(each[torch.arange(len(x)), path].contiguous(memory_format=torch.channels_last))
        return out


def system(width: int) -> RoutedPaths:
    """Two paths with batch-norm statistics of their own, in eval mode."""
    torch.manual_seed(0)
    model = Advmoe(backbone=ResNet(depth=18, width=width)).model(SPEC).to(memory_format=torch.channels_last)
    assert isinstance(model, RoutedPaths)
    with torch.no_grad():
        for _ in range(3):
            model.train().paths(torch.rand(32, 3, 32, 32), torch.arange(32) % 2)
    return model.eval()


def flops(run: Callable[[], object]) -> int:
    """Of one call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@torch.no_grad()
def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=32, help="of a path; the dense net's is 64")
    parser.add_argument("--repeats", type=int, default=10)
    chosen = parser.parse_args()
    model = system(8 if chosen.quick else chosen.width)
    masked = Masked(model.paths)
    x = torch.rand(IMAGES, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    path = torch.arange(IMAGES) % 2
    path = path[torch.randperm(IMAGES)]
    sparse, dense = model.paths(x, path), masked(x, path)
    contenders = {
        "paths, sparse": lambda: model.paths(x, path),
        "paths, masked": lambda: masked(x, path),
        "with router, sparse": lambda: (model.scores(x), model.paths(x, path)),
        "with router, masked": lambda: (model.scores(x), masked(x, path)),
    }
    seconds = alternate(contenders, 3 if chosen.quick else chosen.repeats)
    medians = {name: spread(values)["median"] for name, values in seconds.items()}
    operations = {name: flops(run) for name, run in contenders.items()}
    figures = {
        "settings": {"experts": 2, "depth": 18, "width": 8 if chosen.quick else chosen.width, "batch": IMAGES, "precision": "fp32"},
        "largest_difference_of_a_logit": (sparse - dense).abs().max().item(),
        "largest_logit": dense.abs().max().item(),
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "gflops_a_batch": {name: count / 1e9 for name, count in operations.items()},
        "times_faster": {what: medians[f"{what}, masked"] / medians[f"{what}, sparse"] for what in ("paths", "with router")},
        "times_fewer_flops": {
            what: operations[f"{what}, masked"] / operations[f"{what}, sparse"] for what in ("paths", "with router")
        },
    }
    publish("advmoe", figures, chosen.json)


if __name__ == "__main__":
    main()
