"""Forward and backward passes an image, as the docstrings and the paper's arithmetic promise them."""

from __future__ import annotations

from collections import Counter

import pytest
from tiny_methods import Repeated, batch, build, ready, tiny
from torch import Tensor, nn

from dwf.attacks import Fgsm, Pgd
from dwf.methods import METHODS, Dwf, Free, Plain
from dwf.methods.advmoe import Paths
from dwf.models.resnet import ConvNet
from dwf.run import read
from dwf.training.plan import Phase

IMAGES = 10


def passes(phase: Phase, batches: int = 1, of: type[nn.Module] | None = None) -> dict[str, float]:
    """Passes of a batch through each net (its copies for attacks included), per clean image and net: of ADVMoE, the paths.

    `of`: count these modules.
    """
    subject, counts = ready(phase), Counter[str]()
    nets = [module for module in subject.modules() if isinstance(module, of or Paths)]
    nets = nets or [module for module in subject.modules() if isinstance(module, ConvNet)]
    for net in nets:
        net.head.register_forward_hook(_counting(counts))  # every way through a net ends there; a copy of it copies the hook
    for update in phase.round(subject, Repeated(batch(IMAGES), batches)):
        moved = [p for group in phase.learners[update.learner].groups for p in group.parameters if p.requires_grad]
        update.loss.backward(inputs=[*moved, *update.also])
    for net in nets:
        net.head._forward_hooks.clear()
        net.requires_grad_(True)
    return {name: count / IMAGES / batches / len(nets) for name, count in counts.items()}


def _counting(counts: Counter[str]):
    def count(net: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        counts["forwards"] += len(out)
        counts["forwards in training mode"] += len(out) * net.training
        if out.requires_grad:
            out.register_hook(lambda gradient: counts.update(backwards=len(gradient)))

    return count


def phase(kind: str, name: str, **changes: object) -> Phase:
    method = tiny(kind, **changes)
    (found,) = [one for one in method.phases(build(method)) if one.name == name]
    return found


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_states_what_is_counted(kind: str) -> None:
    """The tiny settings, where K is drawn from one number only."""
    method = tiny(kind, **({"pgd_steps": (2,)} if "pgd_steps" in METHODS[kind].model_fields else {}))
    stated, phases = method.cost(), method.phases(build(method))
    assert {one.kind for one in phases} == set(stated)
    for one in phases:
        counted = passes(one)
        assert (counted["forwards"], counted["backwards"]) == stated[one.kind], one.name


@pytest.mark.parametrize(
    "attack", [Fgsm(start="uniform"), Pgd(steps=2, draws=2), Pgd(steps=2, draws=2, restarts=3)], ids=lambda a: a.kind
)
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_adversarial_training_states_follows_its_attack(attack: Fgsm | Pgd, share: float) -> None:
    method = tiny("adversarial", attack=attack, share=share)
    counted = passes(phase("adversarial", "train", attack=attack, share=share))
    assert (counted["forwards"], counted["backwards"]) == method.cost()["train"]


@pytest.mark.parametrize("steps", [1, 10])
def test_trades_is_k_plus_3_forward_and_k_plus_2_back(steps: int) -> None:
    counted = passes(phase("trades", "train", steps=steps))
    assert counted == {"forwards": steps + 3, "forwards in training mode": 2, "backwards": steps + 2}


@pytest.mark.parametrize("data", ["cifar10", "svhn"])
def test_free_training_costs_what_plain_training_costs(data: str) -> None:
    free, plain = read(f"free-{data}").method, read(f"plain-{data}").method
    assert isinstance(free, Free)
    assert isinstance(plain, Plain)
    assert free.recipe.epochs * free.cost()["train"].forwards == plain.recipe.epochs * plain.cost()["train"].forwards


def test_where_k_is_drawn_its_mean_is_stated() -> None:
    assert Dwf().cost() == {"benign": (1, 1), "fgsm": (2, 2), "pgd": (31, 31), "joint": (34, 34)}
    assert set(Dwf(benign=0, gate_warmup=1).cost()) == {"fgsm", "pgd", "gate", "joint"}


def test_plain_training_is_one_forward_and_one_backward() -> None:
    assert passes(phase("plain", "train")) == {"forwards": 1, "forwards in training mode": 1, "backwards": 1}


@pytest.mark.parametrize("steps", [1, 3])
def test_pgd_training_is_k_plus_1(steps: int) -> None:
    counted = passes(phase("adversarial", "train", attack=Pgd(steps=steps)))
    assert counted == {"forwards": steps + 1, "forwards in training mode": 1, "backwards": steps + 1}


def test_fgsm_training_of_half_a_batch_attacks_half_a_batch() -> None:
    counted = passes(phase("adversarial", "train", attack=Fgsm(), share=0.5))
    assert counted == {"forwards": 1.5, "forwards in training mode": 1, "backwards": 1.5}


def test_experts_cost_1_2_and_k_plus_1() -> None:
    assert passes(phase("dwf", "benign-1"))["forwards"] == 1
    assert passes(phase("dwf", "fgsm-1")) == {"forwards": 2, "forwards in training mode": 1, "backwards": 2}
    assert passes(phase("dwf", "pgd-1", pgd_steps=(4,))) == {"forwards": 5, "forwards in training mode": 1, "backwards": 5}


@pytest.mark.parametrize("steps", [1, 4])
def test_a_joint_step_is_fgsm_pgd_and_one_pass_over_three_batches(steps: int) -> None:
    counted = passes(phase("dwf", "joint", pgd_steps=(steps,)))
    assert counted == {"forwards": 1 + steps + 3, "forwards in training mode": 3, "backwards": 1 + steps + 3}


@pytest.mark.parametrize(("router_loss", "updates"), [("labels", 2), ("straight-through", 4)])
@pytest.mark.parametrize("steps", [1, 3])
def test_paths_are_attacked_twice_and_learn_once_or_twice(steps: int, router_loss: str, updates: int) -> None:
    counted = passes(phase("advmoe", "train", steps=steps, router_loss=router_loss))
    assert counted == {
        "forwards": 2 * (steps + 1) + updates,
        "forwards in training mode": updates,
        "backwards": 2 * steps + updates,
    }


@pytest.mark.parametrize("steps", [1, 3])
def test_a_router_of_paths_is_asked_whenever_they_are_and_learns_once(steps: int) -> None:
    counted = passes(phase("advmoe", "train", steps=steps), of=ConvNet)
    assert counted == {"forwards": 2 * (steps + 1) + 4, "forwards in training mode": 4, "backwards": 2 * steps + 2}


@pytest.mark.parametrize("steps", [1, 3])
def test_experts_in_synergy_are_k_plus_2_together_and_k_plus_1_plus_e_one_by_one(steps: int) -> None:
    together = passes(phase("soe", "train", attack=Pgd(steps=steps)))
    assert together == {"forwards": steps + 2, "forwards in training mode": 2, "backwards": steps + 2}
    apart = passes(phase("soe", "train", attack=Pgd(steps=steps), adversary="one-by-one"))
    assert apart == {"forwards": steps + 1 + 3, "forwards in training mode": 1 + 3, "backwards": steps + 1 + 3}
