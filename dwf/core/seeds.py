"""Randomness without state: every number is a function of what it is for.

`derive` makes one seed per purpose. `Noise` makes the same numbers for a sample in whatever batch, order, process or device
it turns up (EVALUATION rule 3), by hashing counters with the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
`drawing` seeds what is not ours to count: the draws of a model that is random by itself.
Bitwise equality across GPU types is not promised.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64; torch's int64 arithmetic wraps, as the hash needs
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def derive(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**63) for one purpose, such as `derive(0, "augment", phase, epoch)`."""
    text = "/".join(map(str, (seed, *purpose))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, what models draw by themselves (dropout, switches) begins at `seed`; outside, torch's generators stand as before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cpu":  # torch.manual_seed would set the generators of all devices
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield


def own_stream(*purpose: str | int) -> AbstractContextManager[None]:
    """Layers made inside draw their first weights from a stream of their own: the same whatever was made before or after them.

    The stream is a function of the seed that torch's generator was given last, and of `purpose`.
    """
    return drawing(derive(torch.initial_seed(), *purpose), torch.device("cpu"))


@dataclass(frozen=True)
class Noise:
    """Counter-based noise of the samples `index`."""

    seed: int
    index: Tensor
    """(B,) int64, on the device where the noise is wanted."""

    @classmethod
    def rows(cls, seed: int, count: int, device: torch.device | str = "cpu") -> Noise:
        """Noise for samples 0 ... count-1, for callers without a data set."""
        return cls(seed, torch.arange(count, device=device))

    def take(self, rows: Tensor) -> Noise:
        """The noise of some of the samples: `rows` is a mask (B,) or positions."""
        return replace(self, index=self.index[rows])

    def first(self, count: int) -> Noise:
        """The noise of the first `count` samples."""
        return replace(self, index=self.index[:count])

    def uniform(self, shape: torch.Size | tuple[int, ...], *, restart: int = 0, step: int = 0) -> Tensor:
        """(B, *shape) float32 in [0, 1), the same for a sample in any batch."""
        # Filled there: a number that is copied there would make the host wait.
        seed = torch.full((), derive(self.seed, restart, step), dtype=torch.int64, device=self.index.device)
        key = _mix(self.index + _mix(seed))
        counter = torch.arange(math.prod(shape), device=self.index.device) * _GOLDEN
        bits = _mix(key[:, None] + counter)
        return (_shift(bits, 40)).float().mul_(2.0**-24).reshape(len(self.index), *shape)

    def normal(self, shape: torch.Size | tuple[int, ...], *, restart: int = 0, step: int = 0) -> Tensor:
        """(B, *shape) standard normal float32, from `uniform` by the inverse error function."""
        inside = self.uniform(shape, restart=restart, step=step).mul_(2).add_(2.0**-24 - 1)  # never -1 or 1: infinite inverses
        return torch.erfinv(inside).mul_(math.sqrt(2))

    def permutation(self) -> Tensor:
        """(B,) positions in random order."""
        return torch.argsort(_mix(self.index * _GOLDEN + derive(self.seed, "permutation")))


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical right shift of int64."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _FIRST
    z = (z ^ _shift(z, 27)) * _SECOND
    return z ^ _shift(z, 31)
