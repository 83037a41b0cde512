"""Run folders with made-up but lifelike results."""

import json
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from report_bits import N, give_bits

from dwf.core.result import from_json

EPS = 8 / 255
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PHASES = ["benign", *(f"fgsm-{i}" for i in range(1, 5)), *(f"pgd-{i}" for i in range(1, 5)), "joint"]


def wilson(p, n, z=1.959964):
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def score(p, n):
    p = round(p * n) / n
    return {"accuracy": p, "ci95": wilson(p, n), "n": n}


def attack(name, p, n, eps=EPS, *, steps=1, restarts=1, iterate="last"):
    return {
        **{"name": name, "kind": "white", "norm": "linf", "eps": eps, "steps": steps, "restarts": restarts},
        **{"step_size": min(2 / 255, eps / 4) if steps > 1 else eps, "space": "pixel", "iterate": iterate},
        **{"settings": {"start": "uniform"}, "seconds": 3.5 * steps, "forwards": float(steps), "backwards": float(steps)},
        "precision": "bf16",
        **score(p, n),
    }


def table3(n, strength, eps=EPS):
    rows = [attack(f"fgsm-{i / 100:.2f}", strength * (0.9 - 0.062 * i), n, i / 100) for i in range(1, 10)]
    rows.append(attack("fgsm", strength * 0.71, n, eps))
    pgd = [(f"pgd-{k}", k, 1, 0.66 + 0.1 / k) for k in (10, 20, 30, 40, 50)]
    for name, steps, restarts, p in [*pgd, ("pgd-100x3", 100, 3, 0.652), ("pgd-100-eot1", 100, 1, 0.659)]:
        rows.append(attack(name, strength * p, n, eps, steps=steps, restarts=restarts))
        rows.append(attack(f"{name}-worst", strength * p - 0.004, n, eps, steps=steps, restarts=restarts, iterate="worst"))
    return rows


def flag(code="fgsm_beats_pgd", kind="trust"):
    return {"code": code, "class": kind, "value": 0.0231, "cause": "FGSM leaves fewer correct than PGD.", "remedy": "Raise steps."}


def result(name, *, n=2000, strength=0.8, flags=(), gate=9, classes=CIFAR, protocol="table3", eps=EPS, method="dwf", sha="ab" * 32):
    rng = np.random.default_rng(len(name))
    weights = {kind: rng.dirichlet(np.ones(gate) * 1.5).tolist() for kind in ("clean", "fgsm", "pgd")} if gate else {}
    return {
        "schema": 1,
        "run": name,
        "protocol": {"name": protocol, "settings": {"eps": eps, "steps": [10, 20, 30, 40, 50], "restarts": 3}},
        "dataset": {"name": "cifar10", "split": "test", "n": n, "indices": "all" if n == 10000 else f"first {n}", "sha256": sha},
        "model": {"method": method, "settings": {"kind": method}, "parameters": 100_635_219, "forward_passes": gate or 1},
        "clean": score(0.86 if strength > 0.7 else 0.93, n),
        "attacks": table3(n, strength, eps),
        "worst_case": [{"norm": "linf", "eps": eps, **_ci(strength * 0.64, n), "attacks": ["fgsm", "pgd-50", "pgd-100x3"]}],
        "flags": list(flags),
        "routing": {k: {"weights": w, "entropy": 1.71, "load": w} for k, w in weights.items()} or None,
        "per_class": [{"class": c, "clean": 0.8 + 0.01 * i, "worst_case": 0.3 + 0.03 * i} for i, c in enumerate(classes)],
        "environment": {
            **{"dwf": "0.1.0", "torch": "2.11.0", "device": "NVIDIA H200", "threads": 16, "precision": "bf16"},
            **{"seed": 0, "started": "2026-03-01T10:00:00", "seconds": 812.5},
        },
    }


def _ci(p, n):
    found = score(p, n)
    return {"accuracy": found["accuracy"], "ci95": found["ci95"]}


def journal(phases=PHASES, rounds=6):
    lines, total = [], len(phases)
    for index, phase in enumerate(phases):
        shape = {"index": index, "phases": total, "rounds": rounds}
        lines.append({"event": "phase", "phase": phase, "parameters": 11_173_962, **shape})
        for i in range(rounds):
            loss = 2.2 / (1 + 0.6 * i) + 0.02 * index
            shares = {"sa": 0.5 + 0.06 * i, "fgsm": 0.3 + 0.04 * i, "ra": 0.2 + 0.04 * i, "n": 500}
            more = {"loss_clean": loss * 0.7, "loss_pgd": loss * 1.3} if phase == "joint" else {}
            record = {"event": "round", "phase": phase, "round": i, "rounds": rounds, "seconds": 61.2, "images": 45000}
            lines.append({**record, "learning_rate": 0.1 / (i + 1), "loss": loss, **more, "validation": shares})
    return "".join(json.dumps(line) + "\n" for line in [*lines, {"event": "done", "seconds": 3672.0}])


def images(path, classes=10, channels=3, size=32, m=10):
    rng = np.random.default_rng(3)
    clean = rng.random((m, channels, 4, 4)).repeat(size // 4, 2).repeat(size // 4, 3).astype("float32")
    noise = {k: (EPS * np.sign(rng.standard_normal(clean.shape))).astype("float32") for k in ("fgsm", "pgd")}
    label = rng.integers(0, classes, m)
    arrays = {"index": np.arange(m), "label": label, "clean": clean, "clean_prediction": label}
    for kind, change in noise.items():
        said = np.where(rng.random(m) < 0.5, label, (label + 1) % classes)
        arrays |= {kind: np.clip(clean + change, 0, 1), f"{kind}_prediction": said, f"{kind}_eps": np.float64(EPS)}
    np.savez(path, **arrays)


def make(folder, name="dwf", *, seed=0, classes=CIFAR, evaluations=("table3",), pictures=True, phases=PHASES, **more):
    """A run folder; what is left over goes to `result`."""
    method = more.get("method", "dwf")
    environment = {"dwf": "0.1.0", "torch": "2.11.0", "device": "NVIDIA H200", "threads": 16, "precision": "bf16"}
    spec = {"classes": classes, "channels": 3, "height": 32, "width": 32, "mean": [0.49] * 3, "std": [0.2] * 3}
    settings = {"method": {"kind": method, "experts": 9}, "data": {"kind": "cifar10"}, "seed": seed, "name": name}
    record = {"schema": 1, "name": name, "settings": settings, "spec": spec, "environment": environment, "seed": seed}
    record["data"] = {"name": "cifar10", "sha256": "ab" * 32}
    (folder / "eval").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record | {"started": "2026-02-27T09:00:00", "parameters": 100_635_219}))
    (folder / "train.jsonl").write_text(journal(phases))
    for evaluation in evaluations:
        data = result(name, classes=classes, **more)
        from_json(data, where="fixture")
        (folder / "eval" / f"{evaluation}.json").write_text(json.dumps(data))
        if pictures:
            images(folder / "eval" / f"{evaluation}.images.npz", len(classes))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """The paper's method with alarms, and a plain net with neither gate nor images."""
    flags = [flag(), flag("gate_collapse", "worth")]
    first = make(tmp_path / "dwf", "dwf-cifar10", flags=flags)
    second = make(tmp_path / "at", "pgd-at", method="adversarial", strength=0.64, gate=0, pictures=False, phases=["train"])
    return [first, second]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One run with everything."""
    return make(tmp_path / "run")


@pytest.fixture
def build(tmp_path: Path):
    """A maker of further run folders: `build("name", ...)`."""
    return lambda name, **more: make(tmp_path / name, name, **more)


@pytest.fixture
def alarm():
    """A maker of alarms."""
    return flag


@pytest.fixture
def pictures():
    """A maker of image files."""
    return images


@pytest.fixture
def judged(build):
    """A maker of run folders with bits, each a preset of its own: `judged("name", strength=.8)`."""

    def make(name, *, luck=0, bits=True, **more):
        folder = build(name, n=more.pop("n", N), pictures=False, phases=["train"], **more)
        record = json.loads((folder / "run.json").read_text())
        record["settings"]["method"]["experts"] = name
        (folder / "run.json").write_text(json.dumps(record))
        for evaluation in more.get("evaluations", ("table3",)) if bits else ():
            give_bits(folder, luck=luck, name=evaluation)
        return folder

    return make


@pytest.fixture
def pair(judged):
    return [judged("weak", strength=0.6, luck=1), judged("strong", strength=0.8, luck=2)]
