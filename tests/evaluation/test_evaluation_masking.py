"""Each trust alarm through the whole protocol, with a model broken on purpose that raises it; and honest nets that raise none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from broken_models import EPS, BlockedGate, Detached, Quantised, Saturated, SaturatedMixture, honest_mixture, honest_net
from torch import nn

from dwf.core.result import DatasetEntry, ModelEntry, Result
from dwf.core.types import Batch, Images
from dwf.data import Digits, ordered, subset
from dwf.evaluation import Full, Masking
from dwf.evaluation.protocol import evaluate
from dwf.evaluation.tabulate import AnyProtocol, Subject
from dwf.models import Mixture

SMALL = {"eps": EPS, "steps": 10, "apgd_steps": 10, "targets": 2, "queries": 200}
CONVERGED = {"eps": EPS, "steps": 50, "apgd_steps": 20, "targets": 3, "queries": 400}
"""Where nothing may be raised: an alarm that a weak attack spares says little."""


@pytest.fixture(scope="session")
def images() -> Images:
    return subset(Digits()("test"), 150, 1)


@pytest.fixture(scope="session")
def honest() -> nn.Module:
    return honest_net()


@pytest.fixture(scope="session")
def robust_mixture() -> Mixture:
    return honest_mixture()


@pytest.fixture(scope="session")
def taken_apart(robust_mixture: Mixture, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """An honest mixture under `full`."""
    return run(robust_mixture, images, tmp_path_factory.mktemp("honest"), Full(**SMALL))


def run(model: nn.Module, images: Images, folder: Path, protocol: AnyProtocol) -> Result:
    subject = Subject(
        run="toy",
        model=ModelEntry(method="toy", settings={}, parameters=1, forward_passes=1),
        dataset=DatasetEntry(name=images.name, split="test", n=len(images), indices="all", sha256=images.sha256),
        classes=images.classes,
        device="cpu",
        versions=("0", "0"),
    )
    batches: list[Batch] = list(ordered(images, len(images)))
    return evaluate(model, protocol, batches, subject, folder, precision=torch.float32)


def trust(result: Result) -> set[str]:
    return {flag.code for flag in result.flags if flag.class_ == "trust"}


def accuracy(result: Result, row: str) -> float:
    return next(attack.accuracy for attack in result.attacks if attack.name == row)


def test_an_honest_net_raises_no_trust_flag(honest: nn.Module, images: Images, tmp_path: Path) -> None:
    result = run(honest, images, tmp_path, Masking(**CONVERGED))
    assert trust(result) == set()
    assert result.flag_tests == 6, "an alarm counts once, however many pairs it compares"
    assert 0.2 < result.worst_case[0].accuracy < result.clean.accuracy
    assert result.facts["zero_gradient"].value == 0
    names = [attack.name for attack in result.attacks]
    assert names[0] == "fgsm"
    assert names[-1] == "square"


def test_a_rounded_input_has_no_gradient(honest: nn.Module, images: Images, tmp_path: Path) -> None:
    result = run(Quantised(honest), images, tmp_path, Masking(**SMALL))
    assert {"zero_gradient", "blackbox_beats_whitebox"} <= trust(result)
    assert result.facts["zero_gradient"].value == 1


def test_detached_features_have_no_gradient_and_fall_to_queries(honest: nn.Module, images: Images, tmp_path: Path) -> None:
    result = run(Detached(honest), images, tmp_path, Masking(**{**SMALL, "queries": 400}))
    assert {"zero_gradient", "blackbox_beats_whitebox", "large_eps_survives"} <= trust(result)
    assert accuracy(result, "square") < accuracy(result, "apgd-t") - 0.1


def test_a_blocked_gate_falls_to_queries(honest: nn.Module, images: Images, tmp_path: Path) -> None:
    result = run(BlockedGate(honest), images, tmp_path, Masking(**{**SMALL, "eps": 0.15}))
    assert "blackbox_beats_whitebox" in trust(result)
    assert "zero_gradient" not in trust(result), "there is a gradient, and it says nothing"


def test_a_saturated_head_survives_any_radius(honest: nn.Module, images: Images, tmp_path: Path) -> None:
    result = run(Saturated(honest), images, tmp_path, Masking(**SMALL))
    assert {"large_eps_survives", "zero_gradient"} <= trust(result)
    assert accuracy(result, "pgd-10") > accuracy(result, "apgd-t") + 0.1, "a loss that no scale can saturate still works"


def test_a_saturated_soft_mixture_is_seen_through(
    robust_mixture: Mixture, taken_apart: Result, images: Images, tmp_path: Path
) -> None:
    """The trick that any soft-gated defence can play on plain PGD."""
    result = run(SaturatedMixture(robust_mixture), images, tmp_path, Masking(**SMALL))
    assert "softened_transfer" in trust(result)
    naive, worst = accuracy(result, "pgd-10"), result.worst_case[0].accuracy
    assert naive > worst + 0.10
    assert result.facts["zero_gradient"].value < 0.9, "the gradient need not be zero to mislead"
    assert "softened_transfer" not in trust(taken_apart)
    assert worst < accuracy(taken_apart, "pgd-10") + 0.10, "scaling made nothing robust"


def test_full_takes_a_mixture_apart(taken_apart: Result) -> None:
    result = taken_apart
    rows = {attack.name: attack for attack in result.attacks}
    assert {"frozen-routing", "routing", "expert-1", "expert-3", "weighted-logits", "surrogate", "reweighed", "square"} <= set(rows)
    assert rows["square"].kind == "black"
    assert rows["transfer-expert-1"].kind == "transfer"
    assert {"rerouted", "oracle/clean", "oracle/pgd", "uniform/clean", "expert-2/clean", "expert-2/robust"} <= set(result.facts)
    assert result.facts["oracle/clean"].value >= result.clean.accuracy - 0.02
    headline = result.worst_case[0]
    assert (headline.norm, headline.eps) == ("linf", EPS)
    assert headline.accuracy <= min(attack.accuracy for attack in result.attacks if attack.eps <= EPS)
    assert result.routing is not None
    assert set(result.routing) >= {"clean", "fgsm", "pgd"}


@pytest.mark.slow
def test_nine_of_ten_honest_nets_raise_no_trust_flag(images: Images, tmp_path: Path) -> None:
    raised = [trust(run(honest_net(seed), images, tmp_path / str(seed), Masking(**CONVERGED))) for seed in range(10)]
    assert sum(not flags for flags in raised) >= 9, raised
