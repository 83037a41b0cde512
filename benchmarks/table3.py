"""The `table3` protocol against its rows run one by one with the same engine: passes a sample, seconds, and the same bits.

The model is a small mixture trained for a moment on digits or, with --run, any trained run.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from harness import arguments, publish

from dwf.attacks import Fgsm, Pgd
from dwf.core.types import Batch, Threat
from dwf.data import named, ordered, subset
from dwf.evaluation import Table3
from dwf.evaluation.check import Scope, Standing
from dwf.evaluation.victim import Victim
from dwf.models.inference import attack_precision
from dwf.run import Loaded, load, read
from dwf.verbs import train

SCOPE = Scope(classes=10, pixels=0)
"""Nothing here depends on the model."""


def row_by_row(victim: Victim, batch: Batch, protocol: Table3) -> dict[str, torch.Tensor]:
    """Every row of the paper by itself: ten FGSM attacks, five PGD attacks, three full restarts of 100, and 100 more."""
    noise, step = victim.noise(batch), protocol.checks(SCOPE)[2].step
    attacks = {f"fgsm-{eps:g}": [Fgsm(threat=Threat(eps=eps))] for eps in protocol.fgsm_eps} | {
        "fgsm": [Fgsm(threat=protocol.threat)]
    }
    attacks |= {f"pgd-{steps}": [Pgd(threat=protocol.threat, steps=steps, step=step)] for steps in protocol.steps}
    attacks["pgd-100-eot1"] = [Pgd(threat=protocol.threat, steps=protocol.final, step=step)]
    bits = {}
    for name, (attack,) in attacks.items():
        adversarial = attack(victim.copy, batch.x, batch.y, noise)
        bits[name] = victim.verdict(adversarial, batch.x, batch.y, attack.threat)
    standing = torch.ones_like(batch.y, dtype=torch.bool)
    for restart in range(protocol.restarts):
        shifted = _restarted(victim, batch, protocol, step, restart)
        standing &= victim.verdict(shifted, batch.x, batch.y, protocol.threat)
    bits[f"pgd-{protocol.final}x{protocol.restarts}"] = standing
    bits["clean"] = victim.verdict(batch.x, batch.x, batch.y, Threat(eps=0))
    return bits


def _restarted(victim: Victim, batch: Batch, protocol: Table3, step: float, restart: int) -> torch.Tensor:
    from dwf.attacks.engine import ascend
    from dwf.attacks.losses import cross_entropy

    loss = cross_entropy(victim.copy, batch.y)
    *_, last = ascend(loss, batch.x, protocol.threat, steps=protocol.final, step=step, noise=victim.noise(batch), restart=restart)
    return last


def shared(victim: Victim, batch: Batch, protocol: Table3) -> dict[str, torch.Tensor]:
    """The protocol as it runs."""
    bits, standing = {}, Standing(batch)
    for check in protocol.checks(SCOPE):
        bits |= check(victim, batch, standing).bits
    return bits


def a_run(folder: str | None, quick: bool) -> Loaded:
    """The run to attack; without one, the demo's mixture, trained for a moment."""
    if folder:
        return load(folder)
    with TemporaryDirectory() as place:
        epochs = 2 if quick else 6
        return train(
            read("dwf-digits", [f"method.experts.epochs={epochs}", "method.joint.epochs=1"]), Path(place) / "run", device="cpu"
        )


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--run", help="a trained run folder [default: a small mixture on digits, trained now]")
    parser.add_argument("--data", help="the run's data in another place")
    parser.add_argument("--samples", type=int, default=200)
    chosen = parser.parse_args()
    loaded = a_run(chosen.run, chosen.quick)
    protocol = Table3()
    samples = 50 if chosen.quick else chosen.samples
    source = named(chosen.data) if chosen.data else loaded.run.data.source
    images = subset(source("test"), samples, 0)
    (batch,) = ordered(images, samples)
    found, figures = {}, {}
    for name, run in (("row by row", row_by_row), ("table3", shared)):
        victim = Victim(loaded.model, attack_precision(torch.device("cpu")), 0)
        shared(victim, batch, Table3(steps=(1,), final=2, restarts=1))  # warm-up
        victim = Victim(loaded.model, attack_precision(torch.device("cpu")), 0)
        began = time.perf_counter()
        found[name] = run(victim, batch, protocol)
        figures[name] = {
            "seconds": time.perf_counter() - began,
            "gradients_a_sample": victim.meter.backwards / samples,
            "forwards_a_sample": victim.meter.forwards / samples,
        }
    differing = {name: int((bits != found["table3"][name]).sum()) for name, bits in found["row by row"].items()}
    ratio = {key: figures["row by row"][key] / figures["table3"][key] for key in figures["table3"]}
    publish(
        "table3",
        {
            "samples": samples,
            **figures,
            "ratio": ratio,
            "samples_with_other_bits": differing,
            "extra": "table3 also scores worst iterates",
        },
        chosen.json,
    )


if __name__ == "__main__":
    main()
