"""A gate whose rows are switched: attacked permutation by permutation, in expectation, and with the same result every time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dwf.attacks import ApgdCe, Pgd
from dwf.core.errors import Refused
from dwf.core.result import DatasetEntry, ModelEntry, Result
from dwf.core.types import Batch, Images, Spec, Threat
from dwf.data import ordered
from dwf.evaluation import Full, Masking, Moe
from dwf.evaluation.attacked import Attacked
from dwf.evaluation.check import Check, Findings, Scope, Standing
from dwf.evaluation.experts import Rerouting
from dwf.evaluation.flags import Alarms
from dwf.evaluation.permutations import EveryPermutation, switching
from dwf.evaluation.protocol import evaluate
from dwf.evaluation.sweep import Clean, FgsmSweep
from dwf.evaluation.tabulate import Subject
from dwf.evaluation.victim import Victim
from dwf.methods.immunity import SwitchedMixture, SwitchGate
from dwf.models import ExpertBank, Mixture

THREAT = Threat(eps=0.03)
PGD = Pgd(threat=THREAT, steps=2, step=0.015, start="image")
APGD = ApgdCe(threat=THREAT, steps=5)
THREE = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@pytest.fixture(scope="module")
def switched(mixture: Mixture) -> SwitchedMixture:
    """Two experts that know digits and one that does not; the gate believes one expert, and the switch decides which."""
    torch.manual_seed(1)
    spec = Spec(classes=tuple("0123456789"), channels=1, height=16, width=16, mean=(0.3,), std=(0.35,))
    gate = SwitchGate(spec, 3, 4)
    with torch.no_grad():
        gate.head.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    stranger = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 10))
    return SwitchedMixture(ExpertBank([*mixture.bank, stranger]), gate, 2).eval()


def victim(model: torch.nn.Module) -> Victim:
    return Victim(model, torch.float32, seed=3)


def clean(target: Victim, batch: Batch) -> Standing:
    standing = Standing(batch)
    standing.add(Clean().rows(), Clean()(target, batch, standing).bits)
    return standing


class Short(Moe):
    """What is about the switch alone."""

    def checks(self, scope: Scope) -> Sequence[Check]:
        return [Clean(), FgsmSweep((("fgsm", THREAT),)), *switching(scope, PGD, APGD, ())]

    def alarms(self, findings: Findings) -> Alarms:
        return Alarms()


def run(model: torch.nn.Module, images: Images, folder: Path, **options: object) -> Result:
    subject = Subject(
        run="toy",
        model=ModelEntry(method="immunity", settings={}, parameters=1, forward_passes=3),
        dataset=DatasetEntry(name=images.name, split="test", n=20, indices="all", sha256=images.sha256),
        classes=images.classes,
        device="cpu",
        versions=("0", "0"),
    )
    batches: Sequence[Batch] = list(ordered(images.take(torch.arange(20)), 10))
    return evaluate(model, Short(eps=0.03), batches, subject, folder, precision=torch.float32, **options)  # type: ignore[arg-type]


def bits_of(folder: Path) -> bytes:
    (file,) = [path for path in folder.glob("*.npz") if not path.name.endswith(".images.npz")]
    return file.read_bytes()


def names(protocol: Moe | Full | Masking, scope: Scope) -> list[str]:
    return [row.name for check in protocol.checks(scope) for row in check.rows()]


def test_moe_and_full_hold_every_permutation_of_a_model_that_switches() -> None:
    scope = Scope(classes=10, pixels=256, experts=3, permutations=THREE)
    ours = {"pgd-eot20", "worst-permutation", *("-".join(["permutation", *(str(i + 1) for i in one)]) for one in THREE)}
    for protocol in (Moe(), Full()):
        assert set(names(protocol, scope)) >= ours
        assert not ours & set(names(protocol, Scope(classes=10, pixels=256, experts=3)))


def test_each_permutation_is_attacked_and_judged_as_a_model_of_its_own(switched: SwitchedMixture, batch: Batch) -> None:
    target = victim(switched)
    outcome = EveryPermutation(switched.permutations, (PGD,))(target, batch, clean(target, batch))
    rows = {name: bits for name, bits in outcome.bits.items() if name.startswith("permutation-")}
    assert len(rows) == 6
    for permutation, bits in zip(switched.permutations, rows.values(), strict=True):
        alone = victim(switched.fixed(permutation))
        expected = Attacked("pgd", PGD, after=())(alone, batch, clean(alone, batch)).bits["pgd"]
        assert torch.equal(bits, expected)
    worst = outcome.bits["worst-permutation"]
    assert torch.equal(worst, torch.stack(list(rows.values())).all(0))
    shares = [bits.float().mean() for bits in rows.values()]
    assert worst.float().mean() < min(shares)
    assert min(shares) < max(shares) - 0.1, "the permutations are models that differ"


def test_on_survivors_each_permutation_goes_on_where_the_one_before_stopped(switched: SwitchedMixture, batch: Batch) -> None:
    target = victim(switched)
    standing = clean(target, batch)
    all_rows = EveryPermutation(switched.permutations, (PGD,), survivors=True)(target, batch, standing).bits
    *rows, worst = all_rows.values()
    before: Tensor = standing.under(THREAT)
    for bits in rows:
        assert not (bits & ~before).any()
        before = bits
    assert torch.equal(worst, before)
    apart = EveryPermutation(switched.permutations, (PGD,))(target, batch, standing).bits["worst-permutation"]
    assert torch.equal(worst, apart & standing.under(THREAT))
    nobody = Standing(batch)
    nobody.add(Clean().rows(), {"clean": torch.zeros_like(before)})
    assert not torch.stack(list(EveryPermutation(THREE, (PGD,), survivors=True)(target, batch, nobody).bits.values())).any()


def test_the_second_attack_is_for_the_survivors_of_the_first(switched: SwitchedMixture, batch: Batch) -> None:
    target = victim(switched)
    standing = clean(target, batch)
    one = EveryPermutation(switched.permutations, (PGD,))(target, batch, standing).bits
    two = EveryPermutation(switched.permutations, (PGD, APGD))(target, batch, standing).bits
    assert all(not (two[name] & ~one[name]).any() for name in one)
    assert two["worst-permutation"].sum() < one["worst-permutation"].sum()


def test_a_held_victim_is_deterministic_and_pays_the_same_bill(switched: SwitchedMixture, batch: Batch) -> None:
    target = victim(switched)
    held = target.fixed((1, 0, 2))
    assert torch.equal(held.original(batch.x), held.original(batch.x))
    torch.testing.assert_close(held.copy(batch.x), held.original(batch.x), rtol=1e-4, atol=1e-4)
    assert not torch.equal(target.original(batch.x), target.original(batch.x))
    assert target.meter.forwards == 6 * len(batch.y)
    torch.testing.assert_close(held.routed.route(batch.x).weights, switched.gate(batch.x)[:, [1, 0, 2]])


def test_the_gates_own_choice_is_read_without_the_switch(mixture: Mixture, switched: SwitchedMixture, batch: Batch) -> None:
    plain, target = victim(mixture), victim(switched)
    assert plain.settled is plain
    tiny = Rerouting("routing", PGD.model_copy(update={"threat": Threat(eps=1e-6)}), after=())
    moved = tiny(target, batch, clean(target, batch)).facts["rerouted"]
    assert moved.nanmean() == 0, "a switch of its own would move two images of three"


def test_the_result_is_the_same_whoever_drew_before_and_after_an_interruption(
    switched: SwitchedMixture, digits: Images, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    whole = run(switched, digits, tmp_path / "whole")
    torch.manual_seed(6)

    def pull_the_plug(done: int, total: int, accuracy: object) -> None:
        if done == total - 1:  # the last check of the last batch draws what it would have drawn
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(switched, digits, tmp_path / "broken", watch=pull_the_plug)
    torch.manual_seed(7)
    again = run(switched, digits, tmp_path / "broken", resume=True)
    assert bits_of(tmp_path / "whole") == bits_of(tmp_path / "broken")
    assert again.routing == whole.routing
    assert again.facts == whole.facts
    assert {flag.code for flag in whole.flags} >= {"randomized"}


def test_the_file_says_what_was_held_and_how_the_gate_weighs(switched: SwitchedMixture, digits: Images, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    result = run(switched, digits, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are his"
    rows = {row.name: row for row in result.attacks}
    assert rows["worst-permutation"].settings["view"] == {"kind": "EveryPermutation", "held": 6, "of": 6}
    assert rows["permutation-2-3-1"].settings["view"] == {"kind": "Permutation", "permutation": [2, 3, 1]}
    lowest = min(row.accuracy for name, row in rows.items() if name.startswith("permutation-"))
    assert result.worst_case[0].accuracy <= rows["worst-permutation"].accuracy <= lowest
    assert rows["pgd-eot20"].backwards >= 20 * 2 * result.clean.accuracy
    assert result.routing is not None
    weights = switched.gate(digits.pixels[:20].float() / 255).mean(0)
    assert result.routing["clean"].weights == pytest.approx(weights.tolist(), abs=1e-5), "as trained, not as drawn"


def test_what_is_no_permutation_is_refused(switched: SwitchedMixture) -> None:
    with pytest.raises(Refused, match=r"\(0, 1\) is no permutation of 3 experts"):
        victim(switched).fixed((0, 1))
