"""The comparisons of this project, one after another on an idle machine: benchmarks/latest.json, and docs/benchmarks.md from it.

Each is a process of its own. One that fails is told at the end, and its old figures go; one that cannot run here (no data) is
skipped with the reason. --only NAME ... runs some and keeps the other figures; --page only writes the page anew, which also says
which figures are of an earlier version of their script.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = """# Benchmarks

Written by `make bench` (`benchmarks/everything.py`) from `benchmarks/latest.json`, never by hand. By themselves stand
`benchmarks/gpu.py` and `epochs.py` ([GPUs](gpu.md)) and `benchmarks/regimes.py`, which asks about the experts of one run.
"""
NOT_FIGURES = ("command", "minutes", "machine", "benchmark", "script")
LATEST, PAGE = HERE / "latest.json", HERE.parent / "docs" / "benchmarks.md"
SINGLE, MIXTURE = "results/cifar10-mini/pgd-at", "results/cifar10-mini/dwf"
COMPARISONS: dict[str, list[str]] = {
    "joint_step": ["joint_step.py"],
    "joint_step_wide": ["joint_step.py", "--width=64", "--depth=18", "--repeats=3"],
    "share": ["share.py"],
    "scaling": ["scaling.py"],
    "ranks": ["ranks.py"],
    "memory": ["memory.py"],
    "inference": ["inference.py"],
    "decoding": ["decoding.py"],
    "attacks": ["attacks.py", "--run", MIXTURE, "--data=DATA"],
    "table3": ["table3.py", "--run", SINGLE, "--data=DATA"],
    "protocol_table3": ["protocol.py", SINGLE, MIXTURE, "--data=DATA", "--part=table3", "--samples=50"],
    "protocol_standard": ["protocol.py", SINGLE, "--data=DATA", "--part=standard"],
    "advmoe": ["advmoe.py"],
    "alarms": ["alarms.py"],
}
"""Name -> what is run; DATA is the folder of --data, without which those that need it are skipped."""


def run(words: list[str], data: str | None, *, quick: bool) -> dict[str, Any]:
    """The record of one comparison, its command and minutes with it. Raises `CalledProcessError` with what it said."""
    words = [word.replace("DATA", data or "") for word in words] + (["--quick"] if quick else [])
    with tempfile.TemporaryDirectory() as folder:
        file, began = Path(folder) / "figures.json", time.monotonic()
        command = [sys.executable, str(HERE / words[0]), *words[1:], "--json", str(file)]
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE.parent)
        record: dict[str, Any] = json.loads(file.read_text())
    record["script"] = checksum(words[0])
    shown = " ".join(["python", f"benchmarks/{words[0]}", *(w for w in words[1:] if not w.startswith("--data"))])
    return {"command": shown, "minutes": round((time.monotonic() - began) / 60, 1), **record}


def checksum(script: str) -> str:
    """Of what measured: figures of another version of it are told apart."""
    return hashlib.sha256((HERE / script).read_bytes()).hexdigest()


def page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: each comparison's own words, its command, and its figures as tables."""
    parts = [HEAD]
    if missing := [f"`{name}`" for name in COMPARISONS if name not in records]:
        parts.append(f"Not measured since they last changed: {', '.join(missing)}.\n")
    if stale := [f"`{name}`" for name, record in records.items() if record.get("script") != checksum(_script(record))]:
        parts.append(f"Measured by an earlier version of their script: {', '.join(stale)}.\n")
    for name, record in records.items():
        about = ast.get_docstring(ast.parse((HERE / _script(record)).read_text()))
        title, where = name.replace("_", " ").capitalize(), ", ".join(f"{k} {v}" for k, v in record["machine"].items())
        parts.append(f"## {title}\n\n{about}\n\n`{record['command']}` ({record['minutes']} minutes; {where})\n")
        figures = {key: value for key, value in record.items() if key not in NOT_FIGURES}
        parts += section(figures, "")
    return "\n".join(parts)


def _script(record: Mapping[str, Any]) -> str:
    return str(record["command"].split()[1].removeprefix("benchmarks/"))


def section(figures: Mapping[str, Any], path: str) -> list[str]:
    """A list of what is single, a table of each record of records or of numbers, and deeper ones under their path."""
    single = {key: value for key, value in figures.items() if not isinstance(value, Mapping)}
    parts = ["\n".join(f"- {words(path + key)}: {shown(value)}" for key, value in single.items()) + "\n"] if single else []
    for key, value in figures.items():
        if isinstance(value, Mapping) and value:
            inner = list(value.values())
            if all(isinstance(each, Mapping) and not any(isinstance(v, Mapping) for v in each.values()) for each in inner):
                columns = list(dict.fromkeys(column for each in inner for column in each))
                rows = [[row, *(shown(each.get(column, "")) for column in columns)] for row, each in value.items()]
                parts.append(table([words(path + key), *map(words, columns)], rows))
            elif not any(isinstance(each, Mapping) for each in inner):
                parts.append(table([words(path + key), ""], [[words(row), shown(each)] for row, each in value.items()]))
            else:
                parts += section(value, f"{path}{key}: ")
    return parts


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)) + "\n"


def words(key: str) -> str:
    """`largest_difference` -> `largest difference`."""
    return key.replace("_", " ")


def shown(value: Any) -> str:
    """Numbers with three or four digits that say something."""
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def main() -> None:
    """Run, keep, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a folder with CIFAR-10, for the comparisons on trained models")
    parser.add_argument("--only", nargs="*", choices=COMPARISONS, help="run these and keep the figures of the others")
    parser.add_argument(
        "--quick", action="store_true", help="small, to see that all of them run; keeps nothing unless --json is given"
    )
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    parser.add_argument("--json", type=Path, help=f"where the figures go [default: {LATEST.name} here, and the page with it]")
    chosen = parser.parse_args()
    kept: dict[str, Any] = json.loads(LATEST.read_text()) if LATEST.exists() and not chosen.quick else {}
    failed = []
    for name in [] if chosen.page else chosen.only or COMPARISONS:
        if chosen.data is None and "--data=DATA" in COMPARISONS[name]:
            print(f"{name}: skipped, needs --data FOLDER with CIFAR-10", flush=True)
            continue
        print(f"{name} ...", flush=True)
        try:
            kept[name] = run(COMPARISONS[name], chosen.data, quick=chosen.quick)
        except subprocess.CalledProcessError as error:
            kept.pop(name, None)
            failed.append(name)
            print(error.stderr, file=sys.stderr)
        ordered = {name: kept[name] for name in COMPARISONS if name in kept}
        if chosen.json or not chosen.quick:  # after each one: an interrupted run keeps what it found
            (chosen.json or LATEST).write_text(json.dumps(ordered, indent=1) + "\n")
    if not chosen.quick and not chosen.json:
        PAGE.write_text(page({name: kept[name] for name in COMPARISONS if name in kept}))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
