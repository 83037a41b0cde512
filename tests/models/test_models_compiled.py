"""Generated code computes what the nets compute. Skipped where there is no C++ compiler."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwf.core.errors import Refused
from dwf.core.types import Spec
from dwf.data import Digits, specify
from dwf.methods import Plain
from dwf.models import AttackCopy, ExpertBank, Gate, Lipschitz, Mixture, ResNet
from dwf.models.compiled import can_compile, compile_nets, is_compiled, pays
from dwf.verbs.compiling import compile_phases

SPEC = Spec(classes=tuple("abcd"), channels=1, height=8, width=8, mean=(0.5,), std=(0.25,))
CPU = torch.device("cpu")
compiler = pytest.mark.skipif(not can_compile("cpu"), reason="torch.compile does not work here")


@pytest.fixture(autouse=True)
def _clean() -> None:
    torch.compiler.reset()


def mixture() -> Mixture:
    torch.manual_seed(0)
    return Mixture(ExpertBank(ResNet(depth=10, width=4)(SPEC) for _ in range(2)), Gate(hidden=8)(SPEC, 2))


def pixels(count: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Logits, gradients and buffers after one step in training mode."""
    model.train().zero_grad()
    logits = model(x)
    F.cross_entropy(logits, torch.arange(len(x)) % 4).backward()
    gradients = {f"gradient of {name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients, **{name: b.clone() for name, b in model.named_buffers()}}


@compiler
def test_a_step_is_that_of_the_layers() -> None:
    plain, fast = mixture(), mixture()
    compile_nets(fast)
    assert is_compiled(fast)
    assert not is_compiled(plain)
    assert list(fast.state_dict()) == list(plain.state_dict()), "no compiled name reaches a checkpoint"
    found, expected = step(fast, pixels(6)), step(plain, pixels(6))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert not is_compiled(copy.deepcopy(fast))


@compiler
def test_the_attack_copy_of_a_compiled_model_is_compiled_and_follows_it() -> None:
    model = mixture()
    compile_nets(model)
    copied, x = AttackCopy(model), pixels(6).requires_grad_()
    assert is_compiled(copied)
    assert not is_compiled(AttackCopy(mixture()))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    copied.refresh()
    plain = mixture().eval()
    plain.load_state_dict(model.state_dict())
    (found,) = torch.autograd.grad(copied(x).square().sum(), x)
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@compiler
def test_one_code_serves_every_number_of_images() -> None:
    model = mixture().eval()
    compile_nets(model)
    with torch.no_grad():
        whole = model(pixels(9))
        torch._dynamo.utils.counters.clear()
        for rows in (2, 3, 5, 8):
            torch.testing.assert_close(model(pixels(9)[:rows]), whole[:rows], rtol=1e-5, atol=1e-6)
    assert not torch._dynamo.utils.counters["stats"], "nothing was compiled again"


def test_who_decides() -> None:
    def never_asked() -> float:
        raise AssertionError

    assert not pays("never", never_asked, 0, CPU)
    assert not pays("auto", lambda: 1.0, 2.0, CPU)
    assert pays("auto", lambda: 2.0, 2.0, CPU) == can_compile("cpu")


def test_a_wish_that_cannot_be_granted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwf.models.compiled.can_compile", lambda device: False)
    with pytest.raises(Refused, match="it needs a C"):
        pays("always", lambda: 0.0, 0.0, CPU)
    assert not pays("auto", lambda: 1.0, 0.0, CPU)


@compiler
def test_nets_that_are_not_compiled_are_refused_where_the_user_insists() -> None:
    method = Plain(backbone=Lipschitz(width=2, stages=1))
    images = Digits(size=8)("train")
    phases = method.phases(method.model(specify(images)))
    compile_phases("auto", phases, images)
    with pytest.raises(Refused, match="but the nets of this run are none that dwf compiles"):
        compile_phases("always", phases, images)
