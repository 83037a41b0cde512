"""`dwf train --memory` as its user sees it: the process never holds more than the cap, whatever it has to do for that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dwf.models.compiled import can_compile

MIB = 2**20
PRESET = """
[data]
source = { kind = "digits", size = 16 }
limit = 700
[method]
kind = "dwf"
backbone = { kind = "resnet", depth = 10, width = 16 }
fgsm = 1
pgd = 1
pgd_steps = [1]
experts = { epochs = 1, batch = 512 }
joint = { epochs = 1, batch = 512 }
[train]
average = 0.9
select = "best_val"
"""
PEAK = """
import sys
from dwf.cli import main
try:
    main()
finally:
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1], file=sys.stderr)
"""


def trained(folder: Path, *words: str) -> tuple[int, dict[str, dict[str, int]]]:
    """Most bytes that `dwf train` held, and what it did."""
    (folder / "preset.toml").write_text(PRESET)
    command = [
        sys.executable,
        "-c",
        PEAK,
        "train",
        folder / "preset.toml",
        "--out",
        folder / "run",
        "--device",
        "cpu",
        "-q",
        *words,
    ]
    errors = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return 1024 * int(errors.split()[-1]), json.loads((folder / "run" / "run.json").read_text()).get("memory", {})


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak")
@pytest.mark.parametrize(("compiled", "shares"), [("never", (0.9, 0.8)), ("always", (0.95,))])
def test_a_run_never_holds_more_than_its_cap(compiled: str, shares: tuple[float, ...], tmp_path: Path) -> None:
    if compiled == "always" and not can_compile("cpu"):
        pytest.skip("torch.compile does not work here")
    (tmp_path / "free").mkdir()
    most, _ = trained(tmp_path / "free", "--set", f"train.compile={compiled}")
    done = set()
    for cap in (round(share * most) for share in shares):
        (tmp_path / str(cap)).mkdir()
        words = ["--set", f"train.compile={compiled}", "--memory", f"{cap / MIB}MiB"]
        held, measures = trained(tmp_path / str(cap), *words)
        assert held <= cap
        done.add((measures["joint"]["recompute"], measures["joint"]["parts"] > 1))
    assert done != {("never", False)}, "something had to be done"
