"""The committed trials of learning rates, against the rule that their sweep's file states."""

from __future__ import annotations

import json
from pathlib import Path

from dwf.cells import cells_of, read_sweep

HOME = Path(__file__).parents[2]
FILE, RESULTS = HOME / "sweeps" / "trials-cifar10-mini.toml", HOME / "results" / "trials-cifar10-mini.json"
PRESET_RATE = "0.1"


def test_every_method_has_its_three_trials_and_keeps_the_rate_of_its_preset() -> None:
    found = {one["cell"]: one for one in json.loads(RESULTS.read_text())["cells"]}
    assert list(found) == [cell.name for cell in cells_of(read_sweep(FILE))]
    assert {(one["n"], one["seed"]) for one in found.values()} == {(1000, 0)}
    scores: dict[str, dict[str, float]] = {}
    for name, one in found.items():
        method, _, rate = name.rpartition("-")
        scores.setdefault(method, {})[rate] = 100 * (one["sa"] + one["ra"])
    assert len(scores) == 12
    for method, each in scores.items():
        assert each.keys() == {"0.05", PRESET_RATE, "0.2"}
        assert max(each.values()) - each[PRESET_RATE] <= 4, f"{method}: by the rule it is to be trained again at another rate"
