"""Bytes that a piece of work keeps alive, read off a run of it on a few images.

Every storage that a PyTorch operation makes is entered with its birth and its death, weights' gradients, the optimizer's memory and
copies included. Tensors shaped like a weight are the same for any batch; all others grow with it. So the record of a few images
tells the worst moment of any batch, which for a small one is another moment than for a large one. What a library needs inside an
operation is not seen; weights in another shape (flattened, several in one) are taken for features, and too much is counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Footprint(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what runs inside on `rows` images. `model` has the weights; neither they nor what else was there before count."""

    def __init__(self, model: nn.Module, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows = rows
        self._fixed = {(), *(_shape(tensor) for tensor in _tensors(model))}
        self._events: list[tuple[int, bool]] = []
        """Bytes, negative where they end, and whether they grow with the batch."""
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and enter what it made; what it was given is not new."""
        out = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in _found((args, kwargs))}
        for tensor in _found(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._alive:
                self._enter(storage, grows=_shape(tensor) not in self._fixed)
        return out

    def peak(self, images: int) -> int:
        """Most bytes alive at one time in the same work on so many images."""
        alive, most = 0.0, 0.0
        for size, grows in self._events:
            alive += size * images / self.rows if grows else size
            most = max(most, alive)
        return round(most)

    def _enter(self, storage: torch.UntypedStorage, *, grows: bool) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._events.append((size, grows))

        def end(_: object) -> None:
            del self._alive[key]
            self._events.append((-size, grows))

        self._alive[key] = weakref.ref(storage, end)


def tellable(model: nn.Module) -> int:
    """How many images to record, at least two: so many that none of their features are shaped like a matrix of the model.

    A step may take an image up to three times.
    """
    sides = {side for tensor in model.parameters() if tensor.dim() == 2 for side in tensor.shape}
    return next(rows for rows in count(2) if sides.isdisjoint((rows, 2 * rows, 3 * rows)))


def resident(model: nn.Module) -> int:
    """Bytes of the model's own weights and buffers."""
    return sum({tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in _tensors(model)}.values())


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """The same for a matrix and its transpose."""
    return tuple(sorted(tensor.shape))


def _found(tree: Any) -> Iterable[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
