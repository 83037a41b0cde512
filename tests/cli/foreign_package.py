"""The source of a stranger's nets, good and bad, and the words that evaluate one in seconds."""

from __future__ import annotations

from cli_words import SMALL

FEW = [word for text in SMALL for word in ("--set", text)]
WORDS = ("--data", "digits", *FEW, "--samples", "40", "--batch", "25", "--device", "cpu")

PACKAGE = '''
import torch
from torch import nn


class Net(nn.Module):
    """Grey images of 16 x 16, standardised by mean and std."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 7 * 7, classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(x.view(x.size(0), -1))


class Nan(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")


class Mover(Net):
    def forward(self, x):
        self.to("meta")
        return super().forward(x.to("meta"))


class Batched(Net):
    def train(self, mode=True):
        return super().train(True)


class Trainee(Net):
    def forward(self, x):
        if not self.training:
            raise RuntimeError("call train() first")
        return super().forward(x)


class Soft(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)


class Coloured(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, bias=False)


def make():
    torch.manual_seed(3)
    return Net()


def soft():
    torch.manual_seed(3)
    return Soft()


def seven():
    return Net(7)


def broken():
    raise LookupError("no such file")


def nothing():
    return "a net"


ready = make()
number = 3
'''
