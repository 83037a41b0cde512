"""Models are built from the same weights in every run."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def same_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
