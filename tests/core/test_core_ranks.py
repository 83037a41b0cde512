"""One process: everything about ranks does nothing, exactly. The device is what was asked for, or a sentence."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dwf.core import ranks
from dwf.core.errors import Refused
from dwf.core.types import Batch


def test_one_process_is_rank_zero_of_one() -> None:
    assert (ranks.rank(), ranks.world()) == (0, 1)
    ranks.barrier()
    assert not dist.is_initialized()


def test_one_process_has_all_of_the_batch() -> None:
    batch = torch.arange(10).view(5, 2)
    assert torch.equal(ranks.share(batch), batch)


@pytest.mark.parametrize("world", [2, 5])
def test_the_shares_are_equal_and_cover_the_batch_in_order(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    batch = torch.arange(20).view(10, 2)
    parts = []
    monkeypatch.setattr(ranks, "world", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        parts.append(ranks.share(batch))
    assert {len(part) for part in parts} == {10 // world}
    assert torch.equal(torch.cat(parts), batch)


@pytest.mark.parametrize("world", [1, 3, 7])
def test_every_image_of_a_batch_is_dealt_to_one_rank(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    batch, found = Batch(torch.rand(5, 1, 2, 2), torch.arange(5), torch.arange(5) + 10), []
    monkeypatch.setattr(ranks, "world", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        mine = ranks.dealt(batch)
        assert torch.equal(mine.index, mine.y + 10)
        assert torch.equal(mine.x, batch.x[mine.y])
        found += mine.y.tolist()
    assert sorted(found) == [0, 1, 2, 3, 4]


def test_a_process_may_count_as_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(dist, "get_rank", lambda: 3)
    with ranks.alone():
        assert (ranks.rank(), ranks.world()) == (0, 1)
        with ranks.alone():
            pass
        assert ranks.total({"n": 2}) == {"n": 2}
        assert ranks.told("words") == "words"
    assert (ranks.rank(), ranks.world()) == (3, 4)


def test_the_total_over_one_process_is_its_own() -> None:
    assert ranks.total({"sa": 3, "n": 4}) == {"sa": 3, "n": 4}


def test_averaging_over_one_process_changes_nothing() -> None:
    tensors = [torch.randn(3, generator=torch.Generator().manual_seed(0)), torch.arange(3), torch.zeros(())]
    before = [tensor.clone() for tensor in tensors]
    ranks.average(tensors)
    ranks.average([])
    assert all(torch.equal(ours, old) for ours, old in zip(tensors, before, strict=True))


def test_an_exact_average_leaves_alone_what_is_equal_on_three_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "world", lambda: 3)
    monkeypatch.setattr(dist, "all_reduce", lambda flat: flat.mul_(3))
    equal = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    rounded, exact = equal.clone(), equal.clone()
    ranks.average([rounded])
    assert not torch.equal(rounded, equal), "so that this test can fail"
    ranks.average([exact], exact=True)
    assert torch.equal(exact, equal)


def test_a_parameter_without_a_gradient_counts_as_zeros() -> None:
    """On one rank as on many, so that weight decay and momentum act alike."""
    layer = nn.Linear(3, 2)
    layer.weight.grad = torch.full((2, 3), 1.5)
    ranks.average_gradients(layer.parameters())
    assert torch.equal(layer.weight.grad, torch.full((2, 3), 1.5))
    assert torch.equal(layer.bias.grad, torch.zeros(2))


def test_without_torchrun_there_is_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with ranks.together(torch.device("cpu")):
        assert not dist.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with ranks.together(torch.device("cpu")):
        assert not dist.is_initialized()


def test_the_processor_is_always_there() -> None:
    assert ranks.pick_device("cpu") == torch.device("cpu")
    torch.zeros(1, device=ranks.pick_device("auto"))
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert ranks.pick_device("auto").type == expected


@pytest.mark.parametrize("name", ["nonsense", "", "gpu", "cuda:-1", "cuda:99", "cuda:x", "meta", "hpu", "cpu:"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(Refused, match=f"^device '{name}' is not available here; use auto, cpu, cuda, cuda:N or mps$"):
        ranks.pick_device(name)
