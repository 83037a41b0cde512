"""A phase that ended before its time is shown as what it was."""

from __future__ import annotations

import json
from pathlib import Path

from dwf.report import write


def stop(folder: Path, phase: str, after: int) -> None:
    """Let `phase` end after so many rounds."""
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line.get("phase") != phase or line["event"] != "round" or line["round"] < after]
    kept = [{**line, "stopped": True} if (line.get("phase"), line.get("round")) == (phase, after - 1) else line for line in kept]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))


def plan(folder: Path, phases: list[str]) -> None:
    """A plan of the same settings."""
    record = json.loads((folder / "run.json").read_text())
    costs = [{"name": name, "seconds": 367.2} for name in phases]
    kept = {"schema": 1, "settings": record["settings"], "environment": record["environment"], "phases": costs}
    (folder / "plan.json").write_text(json.dumps(kept))


def test_a_phase_that_stopped_early_is_named_with_its_rounds(folder: Path) -> None:
    page = folder / "report.html"
    plan(folder, ["pgd-1", "joint"])
    write([folder], page)
    assert "Stopped early" not in page.read_text()
    assert "pgd-1, " not in page.read_text()
    stop(folder, "pgd-1", 4)
    write([folder], page)
    text = page.read_text()
    assert "Stopped early, for want of a better validation score: pgd-1 after 4 of 6 rounds." in text
    assert "pgd-1, 4 of 6 rounds" in text, "beside the plan, which was an upper bound"
    assert "joint, " not in text
    assert "4 of 6<" in text
