"""Results of the newer protocols, built by hand: lifelike rows, few of them."""

import json
from pathlib import Path

from dwf.core.result import (
    AttackEntry,
    DatasetEntry,
    Environment,
    FlagEntry,
    ModelEntry,
    ProtocolEntry,
    Result,
    RoutingEntry,
    Score,
    Share,
    WorstCase,
    to_json,
)
from dwf.evaluation.statistics import wilson
from dwf.report.reading import Evaluated

EPS = 8 / 255
CLEAN = "survivors of the clean image"
BEFORE = "survivors of all before"
AFTER = "survivors of apgd-t"
WHOLE = {"kind": "Whole"}


def score(share, n=200):
    hits = round(share * n)
    return {"accuracy": hits / n, "ci95": wilson(hits, n), "n": n}


def share(value, n=200):
    return Share(value=score(value, n)["accuracy"], ci95=score(value, n)["ci95"], n=n)


def row(name, accuracy, *, n=200, eps=EPS, norm="linf", on=None, view=None, **more):
    """One row; `on` and `view` go into its settings as evaluation puts them there."""
    settings = {key: value for key, value in (("on", on), ("view", view)) if value is not None} | more.pop("settings", {})
    defaults = {"kind": "white", "steps": 50, "restarts": 1, "step_size": 2 / 255, "space": "pixel", "iterate": "last"}
    costs = {"seconds": 1.0, "forwards": 50.0, "backwards": 50.0, "precision": "bfloat16 generation, float32 verdict"}
    return AttackEntry(**score(accuracy, n), name=name, norm=norm, eps=eps, settings=settings, **{**defaults, **costs, **more})


def worst(accuracy, rows, *, n=200, eps=EPS, norm="linf"):
    found = score(accuracy, n)
    return WorstCase(norm=norm, eps=eps, accuracy=found["accuracy"], ci95=found["ci95"], attacks=tuple(r.name for r in rows))


def flag(code, class_="trust", value=0.02):
    return FlagEntry(code=code, class_=class_, value=value, cause=f"Cause of {code}.", remedy=f"Remedy of {code}.")


def result(protocol, rows, cases, *, run="mix", n=200, gate=3, **more):
    weights = RoutingEntry(weights=(1 / gate,) * gate, entropy=1.0, load=(1 / gate,) * gate) if gate else None
    defaults = {
        "dataset": DatasetEntry(name="cifar10", split="test", n=n, indices=f"subset of {n} of 10000", sha256="ab" * 32),
        "model": ModelEntry(method="dwf" if gate else "adversarial", settings={}, parameters=1000, forward_passes=gate or 1),
        "clean": Score(**score(0.8, n)),
        "flags": (),
        "routing": {"clean": weights} if weights else None,
        "per_class": (),
    }
    environment = {"dwf": "0.1.0", "torch": "2.11.0", "device": "cpu", "threads": 1, "precision": "bfloat16"}
    return Result(
        run=run,
        protocol=ProtocolEntry(name=protocol, settings={"kind": protocol, "eps": EPS}),
        attacks=tuple(rows),
        worst_case=tuple(cases),
        environment=Environment(**environment, seed=0, started="2026-03-01T10:00:00", seconds=9.0),
        **{**defaults, **more},
    )


def evaluated(found, name=None, *, method=None, folder="runs/mix"):
    """As the report reads it; `method` replaces what run.json says of it."""
    record = {
        "schema": 1,
        "name": found.run,
        "settings": {"method": method or {"kind": found.model.method}, "data": {"source": {"kind": "hub", "name": "cifar10"}}},
        "spec": {"classes": ["cat", "dog"]},
        "data": {"name": "cifar10", "sha256": "ab" * 32},
        "environment": {"device": "elsewhere"} if method else {"dwf": "0.1.0", "torch": "2.11.0", "device": "cpu", "threads": 1},
        "seed": 0,
        "parameters": 1000,
    }
    return Evaluated(found.run, name or found.protocol.name, Path(folder), record, (), found, None)


def table3(*, n=200, accuracy=0.5, **more):
    rows = [row("fgsm", accuracy + 0.1, n=n), row("pgd-50", accuracy, n=n)]
    rows += [row("pgd-100x3", accuracy, n=n, steps=100, restarts=3), row("pgd-100-eot1", accuracy, n=n, steps=100)]
    return result("table3", rows, [worst(accuracy, rows, n=n)], n=n, flag_tests=4, **more)


def experts(*, after=CLEAN, own=0.3):
    """The rows of a mixture of three, and its facts."""
    attacks = {"attacks": [{"kind": "pgd", "steps": 50}, {"kind": "apgd-ce", "steps": 100}]}
    rows = [
        row("frozen-routing", 0.45, on=after, view={"kind": "FrozenRouting"}),
        row("routing", 0.7, view={"kind": "routing"}),
        *(
            row(f"expert-{i + 1}", 0.6, steps=0, settings=attacks | {"view": {"kind": "Expert", "number": i}}, step_size=0.0)
            for i in range(3)
        ),
        row("reweighed", 0.4, restarts=8),
    ]
    alone = {f"expert-{i + 1}/{kind}": share(value) for i in range(3) for kind, value in (("clean", 0.7), ("robust", own))}
    panel = {f"{who}/{kind}": share(v) for who, v in (("oracle", 0.95), ("uniform", 0.65)) for kind in ("clean", "pgd")}
    return rows, {**alone, **panel, "rerouted": share(0.25, 160)}


def moe(**more):
    rows, facts = experts()
    soft = row("softened-1-10", 0.42, on=CLEAN, view={"kind": "Softened", "gate": 1.0, "experts": 10.0})
    rows = [row("fgsm", 0.6), row("pgd", 0.5, on=CLEAN, view=WHOLE), row("apgd-ce", 0.48, on=CLEAN, view=WHOLE), *rows, soft]
    return result("moe", rows, [worst(0.4, rows)], facts=facts, **more)


def full(*, accuracy=0.38, **more):
    rows, facts = experts(after=BEFORE)
    near = [row(f"pgd-linf{k}", value, eps=k / 255, on=CLEAN, view=WHOLE) for k, value in ((2, 0.7), (4, 0.6), (16, 0.2))]
    plain = [row("pgd-50", 0.5), row("pgd-100x3", 0.49, steps=100, restarts=3)]
    soft = row("softened-10-100", accuracy, on=AFTER, view={"kind": "Softened", "gate": 10.0, "experts": 100.0})
    again = row("restarts-gradient", 0.4, on=AFTER, view=WHOLE)
    other = row("transfer-other", 0.4, kind="transfer", on=AFTER, view={"kind": "Another", "name": "other"})
    square = row("square", 0.4, kind="black", steps=1000, step_size=0.0, on=AFTER, view=WHOLE)
    huge = row("pgd-huge", 0.1, eps=0.5, on=CLEAN, view=WHOLE)
    rows = [row("fgsm", 0.6), *near, huge, *plain, row("apgd-t", 0.41, on=BEFORE, view=WHOLE), *rows, again, soft, other, square]
    cases = [worst(accuracy, rows), worst(0.7, near[:1], eps=2 / 255), worst(0.2, rows, eps=16 / 255)]
    facts = {**facts, "zero_gradient": share(0.0, 160)}
    return result("full", rows, cases, facts=facts, **{"flag_tests": 19, **more})


def standard(**more):
    radii = (
        ("linf2", "linf", 2 / 255, 0.7),
        ("linf4", "linf", 4 / 255, 0.6),
        ("linf8", "linf", EPS, 0.44),
        ("l2-0.5", "l2", 0.5, 0.5),
    )
    rows = [row(f"pgd-50-{tag}", value, norm=norm, eps=eps, on=BEFORE, view=WHOLE) for tag, norm, eps, value in radii]
    cases = [worst(v, rows, norm=norm, eps=eps) for _, norm, eps, v in (radii[2], radii[3], *radii[:2])]
    return result("standard", rows, cases, **more)


def autoattack(*, accuracy=0.36, n=50, **more):
    rows = [row("autoattack", accuracy, n=n, steps=100, settings={"version": "standard", "code": "pyautoattack"})]
    return result("autoattack", rows, [worst(accuracy, rows, n=n)], n=n, **more)


def write(folder, *results):
    """A run folder on disk with these evaluations."""
    (folder / "eval").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(evaluated(results[0]).record))
    for found in results:
        (folder / "eval" / f"{found.protocol.name}.json").write_text(json.dumps(to_json(found)))
    return folder
