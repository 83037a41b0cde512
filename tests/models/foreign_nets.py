"""A net as strangers write it, images for it, and what may stand between the two."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwf.core.types import Spec

SPEC = Spec(classes=tuple("abcd"), channels=3, height=8, width=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def pixels(count: int = 16, seed: int = 0) -> Tensor:
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)  # as the loader hands them out


class Net(nn.Module):
    """Written as strangers write: `view` where `flatten` would do, batch-norm with a bias before it, a convolution read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.first = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.two, self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.three, self.third = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 4 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.one(x)))
        x = F.relu(self.second(self.two(x)))
        raw = self.three(x)
        x = F.max_pool2d(raw + self.third(raw), 2)
        return self.head(x.view(x.size(0), 8 * 4 * 4))


def trained() -> Net:
    """The same weights always; statistics, scales and shifts that are far from the initial ones."""
    torch.manual_seed(0)
    model, source = Net(), torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = torch.randn(module.weight.shape, generator=source) + 0.5
            module.bias.data = torch.randn(module.bias.shape, generator=source)
    with torch.no_grad():
        for seed in range(3):
            model(pixels(16, seed).contiguous())
    return model


class Around(nn.Module):
    """A good net with something between it and the world."""

    def __init__(self, act: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.net, self.act = trained(), act

    def forward(self, x: Tensor) -> object:
        return self.act(self.net, x)
