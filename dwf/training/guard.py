"""What the loop refuses: losses and weights that are no numbers, and phases that forget a parameter."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dwf.core.errors import Refused
from dwf.training.checkpoint import Store
from dwf.training.mover import Mover
from dwf.training.plan import Phase


def refuse_nan(first_bad: Tensor, phase: str, number: int, store: Store) -> None:
    """`first_bad`: the first step of the round whose loss was no number, infinity where there was none."""
    step = first_bad.item()
    if step != float("inf"):
        raise _broken(f"the loss of phase '{phase}' stopped being a number at step {step:.0f} of round {number + 1}", store)


def refuse_broken(phase: Phase, number: int, store: Store) -> None:
    """The round's last step can break the weights after its own loss was fine; such weights never become a checkpoint."""
    if not all(tensor.isfinite().all() for tensor in phase.subject.state_dict().values() if tensor.is_floating_point()):
        raise _broken(f"the weights of phase '{phase.name}' stopped being numbers in round {number + 1}", store)


def _broken(what: str, store: Store) -> Refused:
    return Refused(f"{what}; the last good checkpoint is {store.last_good()}; lower the learning rate or set train.clip")


def covers(phase: Phase, movers: Mapping[str, Mover]) -> None:
    """Every trainable parameter of the subject belongs to exactly one learner; a method that forgets one is wrong."""
    moved = [id(p) for mover in movers.values() for p in mover.parameters]
    trainable = {id(p) for p in phase.subject.parameters() if p.requires_grad}
    assert len(moved) == len(set(moved)), f"phase {phase.name}: two learners share a parameter"
    assert trainable == set(moved), f"phase {phase.name}: learners and trainable parameters differ"
