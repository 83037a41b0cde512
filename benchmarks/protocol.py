"""Whole protocols against the libraries: `table3` against its rows by torchattacks, `standard` at 8/255 against pyautoattack.

Same model, images, threads and process. Ours is the protocol as `dwf evaluate` runs it, verdicts included, on generated code where
torch.compile works and --eager does not forbid it; generating it is in the warm-up. The libraries get the fp32 model as their users
would give it. Everybody's images are judged by the fp32 original. Beyond what `standard` runs, pyautoattack runs FAB-T and Square.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping

import torch
from harness import arguments, publish
from torch import Tensor, nn

from dwf.attacks import ApgdCe, ApgdT
from dwf.core import heap
from dwf.core.types import Batch, Threat
from dwf.data import named, ordered, subset
from dwf.evaluation import Standard, Table3
from dwf.evaluation.attacked import Attacked
from dwf.evaluation.autoattack import NchwCopy, Reference
from dwf.evaluation.check import Scope, Standing
from dwf.evaluation.sweep import Clean
from dwf.evaluation.tabulate import AnyProtocol
from dwf.evaluation.victim import Victim
from dwf.models.compiled import can_compile
from dwf.models.inference import attack_precision
from dwf.run import load

SCOPE = Scope(classes=10, pixels=3 * 32 * 32)
Bits = Mapping[str, Tensor]


def ours(model: nn.Module, batch: Batch, protocol: AnyProtocol, compiled: bool = False) -> Bits:
    """Every row of a protocol, with freed memory kept, as every dwf command keeps it."""
    heap.keep()
    victim = Victim(model, attack_precision(torch.device("cpu")), 0, compiled=compiled)
    standing, bits = Standing(batch), {}
    for check in protocol.checks(SCOPE):
        found = check(victim, batch, standing).bits
        standing.add(check.rows(), found)
        bits |= found
    return bits


def by_torchattacks(model: nn.Module, batch: Batch, protocol: Table3) -> Bits:
    """The paper's rows one by one; the restarts in full, as a user would write them."""
    import torchattacks

    heap.give_back(at_once=False)  # as in a script, which says nothing of its memory
    eps, step, final = protocol.eps, 2 / 255, protocol.final
    once = {f"fgsm-{radius:g}": torchattacks.FGSM(model, eps=radius) for radius in protocol.fgsm_eps}
    once |= {f"pgd-{steps}": torchattacks.PGD(model, eps=eps, alpha=step, steps=steps) for steps in protocol.steps}
    once[f"pgd-{final}-eot1"] = torchattacks.EOTPGD(model, eps=eps, alpha=step, steps=final, eot_iter=1)
    bits = {name: right(model, attack(batch.x, batch.y), batch) for name, attack in once.items()}
    restart = torchattacks.PGD(model, eps=eps, alpha=step, steps=final)
    survived = [right(model, restart(batch.x, batch.y), batch) for _ in range(protocol.restarts)]
    return {**bits, f"pgd-{final}x{protocol.restarts}": torch.stack(survived).all(0)}


def by_pyautoattack(model: nn.Module, batch: Batch, protocol: Standard) -> Bits:
    """The authors' standard version."""
    heap.give_back(at_once=False)
    victim, standing = Victim(model, torch.float32, 0), Standing(batch)
    reference = Reference(protocol.threat, "standard")
    clean = {"clean": right(model, batch.x, batch)}
    return {**clean, **reference(victim, batch, standing).bits}


@torch.no_grad()
def right(model: nn.Module, images: Tensor, batch: Batch) -> Tensor:
    """(B,) bool."""
    return model(images).argmax(1) == batch.y


def timed(run: Callable[..., Bits], *arguments: object) -> tuple[float, dict[str, float], float]:
    """(seconds, accuracy by row, worst case over all rows)."""
    began = time.perf_counter()
    bits = run(*arguments)
    seconds = time.perf_counter() - began
    worst = torch.stack(list(bits.values())).all(0)
    return seconds, {name: float(b.float().mean()) for name, b in bits.items()}, float(worst.float().mean())


def against_torchattacks(model: nn.Module, batch: Batch, protocol: Table3, compiled: bool) -> dict[str, object]:
    """The paper's table, row for row."""
    ours(model, batch, Table3(fgsm_eps=(0.02,), steps=(1,), final=2, restarts=1), compiled)  # warm-up
    mine, theirs = timed(ours, model, batch, protocol, compiled), timed(by_torchattacks, model, batch, protocol)
    above = {row: 100 * (mine[1][row] - accuracy) for row, accuracy in theirs[1].items()}
    return {
        "seconds": {"ours": mine[0], "torchattacks": theirs[0]},
        "times_less": theirs[0] / mine[0],
        "most_points_above": max(above.values()),
        "points_above": above,
    }


def against_pyautoattack(model: nn.Module, batch: Batch, compiled: bool) -> dict[str, object]:
    """PGD-50, APGD-CE and APGD-T of ours beside APGD-CE, APGD-T, FAB-T and Square of theirs."""
    protocol = Standard(linf=(8 / 255,), l2=())
    ours(model, batch, Table3(fgsm_eps=(0.02,), steps=(1,), final=2, restarts=1), compiled)  # warm-up
    mine, theirs = timed(ours, model, batch, protocol, compiled), timed(by_pyautoattack, model, batch, protocol)
    return {
        "seconds": {"ours": mine[0], "pyautoattack": theirs[0]},
        "times_less": theirs[0] / mine[0],
        "worst_case": {"ours": mine[2], "pyautoattack": theirs[2]},
        "points_above": 100 * (mine[2] - theirs[2]),
    }


def apgd_agreement(model: nn.Module, batch: Batch) -> dict[str, object]:
    """Accuracy after APGD-CE and APGD-T of ours (bf16 copy, fp32 verdict) and of pyautoattack, each on all that are right."""
    import logging

    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    threat, victim, standing = Threat(eps=8 / 255), Victim(model, attack_precision(torch.device("cpu")), 0), Standing(batch)
    start = right(model, batch.x, batch)
    standing.add(Clean().rows(), {"clean": start})
    rows = start.nonzero().squeeze(1)
    rest = Batch(batch.x[rows], batch.y[rows], batch.index[rows])
    plain = victim.through(NchwCopy(model).eval())
    common = {"n_iter": 100, "norm": "Linf", "eps": 8 / 255, "seed": 0, "rho": 0.75, "eot_iter": 1, "device": "cpu"}
    common |= {"n_restarts": 1, "logger": logging.getLogger("reference")}
    pairs = {
        "apgd-ce": (ApgdCe(threat=threat), APGDAttack(plain, loss="ce", **common)),
        "apgd-t": (ApgdT(threat=threat), APGDAttack_targeted(plain, n_target_classes=9, **common)),
    }
    found: dict[str, object] = {}
    for name, (mine, theirs) in pairs.items():
        ours_right = Attacked(name, mine, after=())(victim, batch, standing).bits[name]
        images = theirs.perturb(rest.x.contiguous(), rest.y)
        theirs_right = right(model, images, rest).sum() / len(batch.y)
        found[name] = {"ours": float(ours_right.float().mean()), "pyautoattack": float(theirs_right)}
    return found


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="trained CIFAR run folders: results/cifar10-mini/dwf ...")
    parser.add_argument("--data", help="the runs' data in another place")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--part", choices=("both", "table3", "standard", "apgd"), default="both")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    table3 = Table3()
    if chosen.quick:
        table3 = Table3(fgsm_eps=(0.02,), steps=(5,), final=10, restarts=2)
        chosen.samples, chosen.part = 20, "table3"
    compiled = not chosen.eager and not chosen.quick and can_compile("cpu")
    figures: dict[str, object] = {"samples": chosen.samples, "compiled": compiled}
    for folder in chosen.runs:
        loaded = load(folder)
        source = named(chosen.data) if chosen.data else loaded.run.data.source
        (batch,) = ordered(subset(source("test"), chosen.samples, 0), chosen.samples)
        found = {}
        if chosen.part == "apgd":
            found["apgd against pyautoattack"] = apgd_agreement(loaded.model, batch)
        if chosen.part in ("both", "table3"):
            found["table3 against torchattacks"] = against_torchattacks(loaded.model, batch, table3, compiled)
        if chosen.part in ("both", "standard"):
            found["standard against pyautoattack"] = against_pyautoattack(loaded.model, batch, compiled)
        figures[loaded.run.name] = found
    publish("protocol", figures, chosen.json)


if __name__ == "__main__":
    main()
