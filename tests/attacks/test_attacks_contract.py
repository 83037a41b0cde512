"""What every attack promises. A new member of ATTACKS is tested by being listed."""

import random
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attacked_nets import CLASSES, SHAPE, THREATS, build, cases, images, linear, net
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from dwf.attacks import ATTACKS, AnyAttack
from dwf.core.seeds import Noise
from dwf.core.types import Attack, Threat

EVERY = cases()
FEW = cases("linf-large", "l2-large")
NOISE = Noise(3, torch.tensor([11, 5, 7, 400, 0, 2]))

every_attack = pytest.mark.parametrize("attack", EVERY.values(), ids=EVERY.keys())
each_attack = pytest.mark.parametrize("attack", FEW.values(), ids=FEW.keys())


def radii(change: Tensor, threat: Threat) -> Tensor:
    flat = change.double().flatten(1)
    return flat.abs().amax(1) if threat.norm == "linf" else flat.norm(dim=1)


@every_attack
def test_stays_in_the_ball_and_in_the_box(attack: Attack) -> None:
    x, y = images()
    adversarial = attack(net(), x, y, NOISE)
    assert adversarial.shape == x.shape
    assert adversarial.dtype == x.dtype
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert (radii(adversarial - x, attack.threat) <= attack.threat.eps + 1e-6).all()
    assert (radii(adversarial - x, attack.threat) > 0.1 * attack.threat.eps).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("kind", ATTACKS)
def test_radius_zero_is_the_image_bit_for_bit(kind: str, norm: str) -> None:
    x, y = images()
    threat = Threat(norm=norm, eps=0)
    for attack in (build(kind, threat), build(kind, threat, step=0.1), build(kind, threat, start="uniform", restarts=2)):
        assert torch.equal(attack(net(), x, y, NOISE), x)


@each_attack
def test_the_same_noise_gives_the_same_images(attack: Attack) -> None:
    x, y = images()
    assert torch.equal(attack(net(), x, y, NOISE), attack(net(), x, y, Noise(NOISE.seed, NOISE.index.clone())))


@each_attack
def test_a_sample_is_independent_of_its_batch(attack: Attack) -> None:
    """In fp64, where the rounding of another batch size is too small to turn a sign."""
    model = net(dtype=torch.float64)
    x, y = images()
    x = x.double()
    together = attack(model, x, y, NOISE)
    for row in range(len(x)):
        one = torch.tensor([row])
        torch.testing.assert_close(attack(model, x[one], y[one], NOISE.take(one)), together[one], rtol=0, atol=1e-9)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(attack(model, x[order], y[order], NOISE.take(order)), together[order], rtol=0, atol=1e-9)


def mixed_modes(model: nn.Module) -> nn.Module:
    """Some modules train and some do not, some parameters are frozen, some have gradients."""
    model.train()
    model[2].eval()
    model[4].eval()
    model[1].weight.requires_grad_(False)
    model[1].bias.grad = torch.full_like(model[1].bias, 2.5)
    model[9].weight.grad = torch.full_like(model[9].weight, -1.0)
    return model


@each_attack
@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
def test_leaves_the_model_untouched(attack: Attack, mode: str) -> None:
    x, y = images()
    model = mixed_modes(net()) if mode == "mixed" else net().train(mode == "train")
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    identities = [id(p.grad) for p in model.parameters()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attack(model, x, y, NOISE)
    attack(model, x, y, NOISE, (y + 1) % CLASSES)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert [id(p.grad) for p in model.parameters()] == identities
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert state.keys() == model.state_dict().keys()
    assert any("num_batches_tracked" in name for name in state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


class Counting(nn.Module):
    """Writes into a buffer even in eval mode, as some published models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x)


@each_attack
def test_restores_buffers_that_the_model_writes_itself(attack: Attack) -> None:
    x, y = images()
    model = Counting()
    attack(model, x, y, NOISE)
    assert model.calls == 0


@each_attack
@pytest.mark.parametrize("training", [True, False])
def test_a_graph_that_the_caller_holds_can_still_be_differentiated(attack: Attack, training: bool) -> None:
    """A method may attack between its own forward and backward pass, through batch-norm in either mode."""
    x, y = images()
    model = net().train(training)
    loss = F.cross_entropy(model(x), y)
    attack(model, x, y, NOISE)
    loss.backward()
    assert model[1].weight.grad.abs().sum() > 0


def test_a_failure_inside_still_restores_the_model() -> None:
    x, y = images()
    for kind in ATTACKS:
        model = mixed_modes(net())
        modes = [module.training for module in model.modules()]
        model[9] = nn.Linear(3, CLASSES)  # cannot take the features
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            build(kind, Threat())(model, x, y, NOISE)
        assert [module.training for module in model.modules()] == modes
        assert not model[1].weight.requires_grad
        assert model[1].bias.requires_grad


@each_attack
def test_draws_nothing_from_the_callers_generators(attack: Attack) -> None:
    x, y = images()
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    attack(net(), x, y, NOISE)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert random.getstate() == python_state


@each_attack
def test_works_on_a_function_and_on_a_module_without_parameters(attack: Attack) -> None:
    x, y = images()
    weights = linear()[1].weight.detach()
    layer = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False))
    layer[1] = type("Product", (nn.Module,), {"forward": lambda self, flat: flat @ weights.T})()
    assert not list(layer.parameters())
    by_function = attack(lambda images: images.flatten(1) @ weights.T, x, y, NOISE)
    assert torch.equal(by_function, attack(layer, x, y, NOISE))
    assert not torch.equal(by_function, x)


@each_attack
def test_parameters_behind_a_function_receive_no_gradient(attack: Attack) -> None:
    """No guard sees the module here; the attack must ask for the gradient of the image alone."""
    x, y = images()
    model = net()
    model[9].bias.grad = torch.full_like(model[9].bias, 2.5)
    attack(lambda images: 2 * model(images), x, y, NOISE)
    assert torch.equal(model[9].bias.grad, torch.full_like(model[9].bias, 2.5))
    assert model[1].weight.grad is None
    assert all(parameter.requires_grad for parameter in model.parameters())


@each_attack
def test_works_where_gradients_are_switched_off(attack: Attack) -> None:
    x, y = images()
    with torch.no_grad():
        silent = attack(net(), x, y, NOISE)
    assert torch.equal(silent, attack(net(), x, y, NOISE))


@each_attack
def test_output_is_detached_and_the_input_stays_as_it_was(attack: Attack) -> None:
    x, y = images()
    before, labels = x.clone(), y.clone()
    x.requires_grad_()
    adversarial = attack(net(), x, y, NOISE)
    assert not adversarial.requires_grad
    assert x.grad is None
    assert torch.equal(x, before)
    assert torch.equal(y, labels)
    adversarial.fill_(0.5)
    assert torch.equal(x, before)


@each_attack
def test_no_images_are_no_trouble(attack: Attack) -> None:
    x, y = images()
    assert attack(net(), x[:0], y[:0], NOISE.first(0)).shape == (0, *SHAPE)


@every_attack
@pytest.mark.parametrize("model", [net(), linear()], ids=["net", "linear"])
def test_untargeted_breaks_or_lowers_the_probability_of_the_true_class(attack: Attack, model: nn.Module) -> None:
    """Some attacks stop at the first image that is misclassified, however little its probability fell."""
    x, _ = images()
    y = model(x).argmax(1)
    true = y[:, None]
    with torch.no_grad():
        before = model(x).log_softmax(1).gather(1, true).squeeze(1)
        logits = model(attack(model, x, y, NOISE))
        after = logits.log_softmax(1).gather(1, true).squeeze(1)
    assert ((after < before) | (logits.argmax(1) != y)).all()


@every_attack
@pytest.mark.parametrize("model", [net(), linear()], ids=["net", "linear"])
def test_targeted_moves_from_the_true_class_to_the_target(attack: Attack, model: nn.Module) -> None:
    """By the odds of the two, for the runner-up: ratio losses may lower both probabilities."""
    x, _ = images()
    y, target = model(x).topk(2).indices.unbind(1)

    def odds(images: Tensor) -> Tensor:
        with torch.no_grad():
            logits = model(images)
        return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)

    assert (odds(attack(model, x, y, NOISE, target)) > odds(x)).all()


@every_attack
def test_settings_survive_json_and_select_their_class(attack: Attack) -> None:
    text = attack.model_dump_json()
    assert type(attack).model_validate_json(text) == attack
    assert TypeAdapter(AnyAttack).validate_json(text) == attack
    assert attack.model_copy() == attack
    with pytest.raises(ValidationError, match="frozen"):
        attack.threat = THREATS["linf-small"]


def test_the_union_holds_every_member() -> None:
    assert set(get_args(get_args(AnyAttack)[0])) == set(ATTACKS.values())
    assert {kind: member().kind for kind, member in ATTACKS.items()} == {kind: kind for kind in ATTACKS}
