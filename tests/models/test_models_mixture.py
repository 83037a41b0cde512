"""Equations 1 and 2 of the paper, and what a mixture offers its attacker."""

import pytest
import torch
from torch import Tensor, nn

from dwf.core.types import Routed, Spec
from dwf.models import ExpertBank, Gate, Mixture, ResNet

SPEC = Spec(classes=tuple("abcd"), channels=1, height=8, width=8, mean=(0.3,), std=(0.35,))
EXPERTS = 3


def mixture(gate: Gate | None = None) -> Mixture:
    bank = ExpertBank(ResNet(depth=10, width=4)(SPEC) for _ in range(EXPERTS))
    return Mixture(bank, (gate or Gate(hidden=16))(SPEC, EXPERTS)).eval()


def pixels(count: int = 5) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def opinionated(model: Mixture, scale: float = 30.0) -> Mixture:
    """A gate that prefers different experts for different images."""
    with torch.no_grad():
        model.gate.head.weight.mul_(scale)
    return model


@pytest.mark.parametrize(
    "gate", [Gate(hidden=16), Gate(hidden=16, pool=4), Gate(hidden=16, pool=1)], ids=["all", "pool 4", "pool 1"]
)
def test_logits_are_the_experts_logits_summed_with_weights(gate: Gate) -> None:
    model, x = opinionated(mixture(gate)), pixels()
    logits, weights, opinions = model.route(x)
    assert logits.shape == (5, 4)
    assert weights.shape == (5, EXPERTS)
    assert opinions.shape == (5, EXPERTS, 4)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(5))
    torch.testing.assert_close(weights, model.gate(x))
    torch.testing.assert_close(weights, model.gate.scores(x).softmax(1))
    for number, expert in enumerate(model.bank):
        torch.testing.assert_close(opinions[:, number], expert(x))
    torch.testing.assert_close(logits, sum(weights[:, [number]] * expert(x) for number, expert in enumerate(model.bank)))
    torch.testing.assert_close(model(x), logits)
    assert weights.std(0).max() > 1e-4  # the gate reads the image


def test_the_surrogate_at_temperature_one_is_the_mixture() -> None:
    model, x = opinionated(mixture()), pixels()
    torch.testing.assert_close(model.surrogate(x, 1.0).logits, model(x))


def test_the_surrogate_goes_from_the_uniform_to_the_hardest_gate() -> None:
    model, x = opinionated(mixture()), pixels()
    routing = model.route(x)
    torch.testing.assert_close(model.surrogate(x, 1e6).logits, routing.opinions.mean(1), rtol=0, atol=1e-4)
    favourite = routing.opinions[torch.arange(5), routing.weights.argmax(1)]
    torch.testing.assert_close(model.surrogate(x, 1e-4).logits, favourite, rtol=0, atol=1e-4)


def test_the_surrogate_is_differentiable_in_the_routing() -> None:
    """Also where the weights themselves are rounded to 0 and 1."""
    model, x = opinionated(mixture(), 1e5), pixels().requires_grad_()
    assert ((model.gate(x) == 0) | (model.gate(x) == 1)).all()
    with torch.no_grad():
        opinions = model.bank(x)
    model.bank.forward = lambda _: opinions  # only the gate sees the image
    (hard,) = torch.autograd.grad(model(x).sum(), x)
    (soft,) = torch.autograd.grad(model.surrogate(x, 1e5).logits.sum(), x)
    assert not hard.any()
    assert soft.flatten(1).any(1).all()


@pytest.mark.parametrize("chosen", range(EXPERTS))
def test_a_one_hot_gate_is_that_expert(chosen: int) -> None:
    model, x = mixture(), pixels()
    with torch.no_grad():
        model.gate.head.weight.zero_()
        model.gate.head.bias.copy_(torch.eye(EXPERTS)[chosen] * 1000)
    assert torch.equal(model.gate(x), torch.eye(EXPERTS)[chosen].expand(5, -1))
    torch.testing.assert_close(model(x), model.bank[chosen](x), rtol=0, atol=0)


def test_a_mixture_is_routed_and_an_expert_is_not() -> None:
    model = mixture()
    assert isinstance(model, Routed)
    assert not isinstance(model.bank[0], Routed)


def test_weights_and_opinions_are_fp32_whatever_the_experts_compute_in() -> None:
    model, x = mixture(), pixels()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.bfloat16()
    assert {tensor.dtype for tensor in model.route(x)} == {torch.float32}


def test_a_pooled_gate_sees_only_the_average_of_each_region() -> None:
    gate = Gate(hidden=16, pool=2)(SPEC, EXPERTS)
    assert gate.hidden.in_features == 4
    assert Gate(hidden=16)(SPEC, EXPERTS).hidden.in_features == 64
    x = pixels()
    flat = nn.functional.avg_pool2d(x, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(gate(x), gate(flat))
    assert not torch.allclose(gate(x), gate(x.flip(3)), atol=1e-5)


def test_the_gate_of_the_paper_reads_every_pixel() -> None:
    gate, x = Gate(hidden=64)(SPEC, EXPERTS), pixels(2).requires_grad_()
    (gradient,) = torch.autograd.grad(gate.scores(x)[:, 0].sum(), x)
    assert (gradient != 0).all()


def test_the_default_gate_on_cifar_has_the_stated_size() -> None:
    cifar = SPEC.model_copy(update={"channels": 3, "height": 32, "width": 32, "mean": (0.5,) * 3, "std": (0.2,) * 3})
    assert sum(p.numel() for p in Gate()(cifar, 9).parameters()) == 3072 * 128 + 128 + 128 * 9 + 9


def test_what_is_mixed_is_a_choice() -> None:
    by_logits, x = opinionated(mixture()), pixels()
    _, weights, opinions = by_logits.route(x)
    answers = {"logits": opinions, "log-probabilities": opinions.log_softmax(2), "probabilities": opinions.softmax(2)}
    for mixing, answer in answers.items():
        model = Mixture(by_logits.bank, by_logits.gate, mixing)
        expected = (weights.unsqueeze(2) * answer).sum(1)
        torch.testing.assert_close(model(x), expected.log() if mixing == "probabilities" else expected)
    # Log-probabilities and logits differ by a constant an image, which no softmax sees; probabilities are another mixture.
    first, second, third = (Mixture(by_logits.bank, by_logits.gate, mixing)(x).softmax(1) for mixing in answers)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, third, atol=1e-4)
