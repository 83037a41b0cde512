"""A bank that forgets and computes again: the same numbers, the statistics moved once, the memory of one expert."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwf.attacks import Pgd
from dwf.core.seeds import Noise
from dwf.core.types import Recompute, Spec
from dwf.models import AttackCopy, ExpertBank, Gate, Mixture, ResNet
from dwf.models.mixture import Mixing
from dwf.training.footprint import Footprint

SPEC = Spec(classes=tuple("abcd"), channels=1, height=8, width=8, mean=(0.3,), std=(0.35,))
EXPERTS = 5
GATES = {"image": Gate(hidden=8), "features": Gate(reads="features", hidden=8), "nothing": Gate(reads="nothing")}


def mixture(reads: str = "image", mixing: Mixing = "logits", width: int = 4) -> Mixture:
    experts = [ResNet(depth=10, width=width)(SPEC) for _ in range(EXPERTS)]
    features = sum(net.head.in_features for net in experts)
    return Mixture(ExpertBank(experts), GATES[reads](SPEC, EXPERTS, features), mixing)


def batch(count: int = 6, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x.to(dtype), torch.arange(count) % 4


def learnt(model: Mixture, x: Tensor, y: Tensor, *, bf16: bool = False) -> list[Tensor]:
    """Gradients of all parameters, with the seed of everything that is drawn the same."""
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = F.cross_entropy(model.train()(x), y)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def told(model: Mixture, when: Recompute) -> Mixture:
    """A copy of the model that recomputes."""
    other = copy.deepcopy(model)
    other.bank.recompute = when
    return other


def assert_same(kept: Mixture, forgotten: Mixture, x: Tensor, y: Tensor, *, bf16: bool = False) -> None:
    for ours, theirs in zip(learnt(forgotten, x, y, bf16=bf16), learnt(kept, x, y, bf16=bf16), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7 if x.dtype is torch.float32 else 1e-12)
    for name, buffer in kept.named_buffers():
        assert torch.equal(buffer, forgotten.get_buffer(name)), name


@pytest.mark.parametrize("reads", GATES)
@pytest.mark.parametrize("mixing", get_args(Mixing))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_and_statistics_are_those_of_the_ordinary_pass(reads: str, mixing: Mixing, dtype: torch.dtype) -> None:
    kept = mixture(reads, mixing).to(dtype)
    forgotten = told(kept, "learning")
    assert_same(kept, forgotten, *batch(dtype=dtype))
    assert {int(n) for name, n in forgotten.named_buffers() if name.endswith("tracked")} == {1}, "one pass, one update"


def test_precision_is_kept() -> None:
    kept = mixture()
    assert_same(kept, told(kept, "learning"), *batch(), bf16=True)


def test_dropout_draws_the_same_again() -> None:
    nets = (nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(), nn.Linear(16, 4)) for _ in range(EXPERTS))
    kept = Mixture(ExpertBank(nets), GATES["image"](SPEC, EXPERTS))
    x, y = batch()
    assert not torch.equal(kept.train()(x), kept(x)), "it draws"
    assert_same(kept, told(kept, "learning"), x, y)


def test_compiled_nets_compute_again_too() -> None:
    kept = mixture()
    forgotten = told(kept, "learning")
    for model in (kept, forgotten):
        for net in model.bank:
            net.compile(backend="aot_eager")
    assert_same(kept, forgotten, *batch())


@pytest.mark.parametrize("when", ["learning", "always"])
@pytest.mark.parametrize("batch_statistics", [False, True])
def test_attacked_images_are_the_same(when: Recompute, batch_statistics: bool) -> None:
    kept, (x, y) = mixture().eval(), batch()
    images = [
        Pgd(steps=3)(AttackCopy(model, batch_statistics=batch_statistics), x, y, Noise.rows(0, len(x)))
        for model in (kept, told(kept, when))
    ]
    assert torch.equal(*images)
    assert not torch.equal(images[0], x)


def most(model: Mixture, *, attack: bool) -> int:
    """Bytes alive at the worst moment of learning, or of an attack."""
    x, y = batch(16)
    with Footprint(model, len(x)) as footprint:
        if attack:
            Pgd(steps=2)(model, x, y, Noise.rows(0, len(x)))
        else:
            loss = F.cross_entropy(model.train()(x), y)
            loss.backward()
            model.zero_grad()
    return footprint.peak(len(x))


@pytest.mark.parametrize(("when", "attack"), [("learning", False), ("always", False), ("always", True)])
def test_memory_is_that_of_one_expert(when: Recompute, attack: bool) -> None:
    kept = mixture()
    ordinary, short = most(kept, attack=attack), most(told(kept, when), attack=attack)
    gradients = 0 if attack else sum(p.nbytes for p in kept.parameters())  # which are all there in the end
    one = (ordinary - gradients) / EXPERTS
    assert short - gradients < 1.6 * one


def test_an_attack_is_left_alone_where_only_learning_recomputes() -> None:
    kept = mixture()
    assert most(told(kept, "learning"), attack=True) == most(kept, attack=True)


def test_nothing_is_computed_again_where_nothing_is_differentiated() -> None:
    model, passes = told(mixture(), "always"), []
    model.bank[0].register_forward_pre_hook(lambda *_: passes.append(1))
    x, _ = batch()
    with torch.no_grad():
        model.eval()(x)
    assert len(passes) == 1
    torch.autograd.grad(model(x).sum(), list(model.parameters()))
    assert len(passes) == 3
