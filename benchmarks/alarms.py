"""What `masking` and `full` say of models broken on purpose, beside the honest ones they were made of (digits, eps 0.06).

docs/evaluation.md shows the figures.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from broken_models import (
    EPS,
    BlockedGate,
    Detached,
    Noisy,
    Quantised,
    Saturated,
    SaturatedMixture,
    honest_mixture,
    honest_net,
)
from harness import arguments, publish
from torch import nn

from dwf.core.result import DatasetEntry, ModelEntry, Result
from dwf.core.types import Images
from dwf.data import Digits, ordered, subset
from dwf.evaluation import Full, Masking
from dwf.evaluation.protocol import evaluate
from dwf.evaluation.tabulate import AnyProtocol, Subject


def judged(model: nn.Module, images: Images, protocol: AnyProtocol) -> Result:
    """One evaluation in fp32, kept nowhere."""
    subject = Subject(
        run="alarms",
        model=ModelEntry(method="toy", settings={}, parameters=1, forward_passes=1),
        dataset=DatasetEntry(name=images.name, split="test", n=len(images), indices="", sha256=images.sha256),
        classes=images.classes,
        device="cpu",
        versions=("", ""),
    )
    with TemporaryDirectory() as folder:
        return evaluate(model, protocol, list(ordered(images, len(images))), subject, Path(folder), precision=torch.float32)


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200)
    chosen = parser.parse_args()
    images = subset(Digits()("test"), 30 if chosen.quick else chosen.samples, 0)
    settings = {"eps": EPS, "steps": 50, "queries": 100 if chosen.quick else 1000}
    if chosen.quick:
        settings |= {"steps": 10, "apgd_steps": 10, "targets": 2}
    net, mixture = honest_net(), honest_mixture()
    singles = {
        "honest net": net,
        "input rounded to 9 levels": Quantised(net),
        "features detached": Detached(net),
        "logits x 100,000": Saturated(net),
        "noise on the logits": Noisy(net),
    }
    cases: list[tuple[str, nn.Module, AnyProtocol]] = [(name, model, Masking(**settings)) for name, model in singles.items()]
    cases.append(("hard gate, gradient blocked", BlockedGate(net), Masking(**{**settings, "eps": 0.15})))
    cases.append(("honest net, PGD of 3 steps", net, Masking(**{**settings, "steps": 3})))
    cases.append(("honest mixture", mixture, Full(**settings)))
    cases.append(("mixture of probabilities, experts' logits x 100", SaturatedMixture(mixture), Full(**settings)))
    figures: dict[str, object] = {"samples": len(images), "eps": EPS}
    for name, model, protocol in cases:
        result = judged(model, images, protocol)
        pgd = next(row for row in result.attacks if row.name == f"pgd-{protocol.steps}")  # type: ignore[attr-defined]
        figures[name] = {
            "protocol": protocol.kind,
            "eps": protocol.threat.eps,
            "clean": result.clean.accuracy,
            "pgd": pgd.accuracy,
            "worst_case": result.worst_case[0].accuracy,
            "flags": {flag.code: flag.value for flag in result.flags},
            "tests": result.flag_tests,
        }
    publish("alarms", figures, chosen.json)


if __name__ == "__main__":
    main()
