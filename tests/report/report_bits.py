"""Made-up results with the bits behind them (which images are right), and changes to either."""

import json

import numpy as np

N = 400


def edited(folder, change, name="table3"):
    path = folder / "eval" / f"{name}.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def give_bits(folder, *, luck=0, name="table3", index=None):
    """Bits for a made-up result, whose accuracies then are those of the bits. Hard images are hard for every run."""
    random = np.random.default_rng(luck)
    path = folder / "eval" / f"{name}.json"
    data = json.loads(path.read_text())
    n = data["dataset"]["n"]
    hard = np.clip(np.linspace(0, 1, n) + 0.03 * random.standard_normal(n), 0, 1)
    rows = [data["clean"] | {"name": "clean"}, *data["attacks"]]
    bits = {row["name"]: np.clip(hard + 0.01 * random.standard_normal(n), 0, 1) < row["accuracy"] for row in rows}
    for row in (data["clean"], *data["attacks"]):
        row["accuracy"] = float(bits[row.get("name", "clean")].mean())
    for case in data["worst_case"]:
        case["accuracy"] = float(np.logical_and.reduce([bits[row] for row in ("clean", *case["attacks"])]).mean())
    path.write_text(json.dumps(data))
    np.savez(path.with_suffix(".npz"), index=np.arange(n) * 3 if index is None else index, **bits)
    return folder


def resave(folder, change):
    path = folder / "eval" / "table3.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez(path, **arrays)


def as_seed(folder, seed, preset):
    """The same preset, trained with another seed."""
    record = json.loads((folder / "run.json").read_text())
    settings = record["settings"] | {"seed": seed, "name": preset}
    (folder / "run.json").write_text(json.dumps(record | {"name": preset, "settings": settings, "seed": seed}))
    return folder
