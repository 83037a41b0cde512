"""The strided 1x1 convolution that drops pixels first is the ordinary one, and writes nowhere but into its own memory."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from dwf.models.layers import Pointwise

MANY_STEPS = """
import torch
from dwf.core.types import Spec
from dwf.models import ResNet
torch.set_num_threads(2)
net = ResNet(depth=10, width=4)(Spec(classes=tuple("abc"), channels=1, height=16, width=16, mean=(0.3,), std=(0.35,)))
net = net.to(memory_format=torch.channels_last)
for size in [97, 3, 5, 99] * 15:
    net(torch.rand(size, 1, 16, 16)).square().sum().backward()
    litter = [bytearray(length) for length in range(16, 600, 16)]
"""


@pytest.mark.parametrize(("stride", "size"), [(1, 8), (2, 8), (2, 7), (3, 8)])
def test_values_and_gradients_are_those_of_a_strided_convolution(stride: int, size: int) -> None:
    torch.manual_seed(0)
    conv = Pointwise(4, 6, stride).double()
    x = torch.rand(3, 4, size, size, dtype=torch.float64, requires_grad=True)
    out, expected = conv(x), F.conv2d(x, conv.weight, stride=stride)
    torch.testing.assert_close(out, expected)
    probe = torch.rand_like(out)
    ours, theirs = (torch.autograd.grad(y, [x, conv.weight], probe) for y in (out, expected))
    torch.testing.assert_close(ours, theirs)


def test_training_on_odd_batches_with_two_threads_leaves_the_heap_whole() -> None:
    ended = subprocess.run([sys.executable, "-c", MANY_STEPS], env={**os.environ, "OMP_NUM_THREADS": "2"}, check=False)
    assert ended.returncode == 0
