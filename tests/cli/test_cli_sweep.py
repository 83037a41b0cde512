"""`dwf sweep` and `--executor`, as they are typed."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_words import SMALL, Dwf

from dwf.cells import Sweep, cells_of

ROOT = Path(__file__).parents[2]
SETS = ('data.source={kind="digits",size=8}', "data.limit=120", "method.backbone.width=2", "method.recipe.epochs=1")
FILE = f"""
preset = "plain-digits"
set = {json.dumps([*SETS, "validation.steps=1"])}
samples = 20
protocols = [{{ name = "table3", set = {json.dumps(SMALL)} }}]
[[cells]]
name = "good"
[[cells]]
name = "large"
set = ["method.recipe.batch=5000"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One cell that works and one that does not fit its data."""
    path = tmp_path / "two.toml"
    path.write_text(FILE)
    return path


def test_a_sweep_ends_with_its_table_its_failures_and_its_report(dwf: Dwf, file: Path) -> None:
    code, out, err = dwf("sweep", file, "--device", "cpu")
    assert code == 1, err
    said = " ".join(out.split())
    assert "good train loss" in said
    assert "good finished (1 of 2)" in said
    assert "Failed: large: batch is 5000, but there are 108 training images; use a batch of 1 to 108" in said
    assert "1 of 2 cells finished in runs/two, report: runs/two/report.html" in said
    assert Path("runs/two/report.html").exists()
    assert json.loads(Path("runs/two/good/run.json").read_text())["name"] == "good"
    code, again, _ = dwf("sweep", file, "--device", "cpu", "--resume", "--quiet")
    assert code == 1
    assert "good" in again
    assert "finished (" not in again


def test_a_sweep_that_judges_nothing_shows_what_was_held_out(dwf: Dwf, file: Path) -> None:
    file.write_text(re.sub("protocols = .*", "protocols = []", FILE))
    code, out, err = dwf("sweep", file, "--device", "cpu", "--quiet")
    assert code == 1, err
    (line,) = json.loads(Path("runs/two/validation.json").read_text())["cells"]
    sa, ra = (100 * line[name] for name in ("sa", "ra"))
    said = rf"good +{sa:.1f} +{100 * line['fgsm']:.1f} +{ra:.1f} +{sa + ra:.1f} +{line['n']} +1/1"
    assert re.search(said, out), out
    assert not Path("runs/two/report.html").exists()


def test_a_dry_run_only_says_what_there_is(dwf: Dwf, file: Path, tmp_path: Path) -> None:
    code, out, _ = dwf("sweep", file, "--dry-run")
    assert code == 0
    assert "All cells: --set method.recipe.epochs=1" in out
    assert re.search(r"large +plain-digits +method\.recipe\.batch=5000", out)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("words", "sentence"), [
    (["sweep", "nowhere.toml"], "nowhere.toml does not exist; name the TOML file of a sweep, such as docs/sweep.md shows"),
    (["sweep", "two.toml", "--workers", "2"], "--workers 2 needs processes to work in; add --executor processes or ray, "),
    (["sweep", "two.toml", "--workers", "0", "--executor", "processes"], "--workers is 0, and somebody must work; give at least 1"),
    (["train", "plain-digits", "--workers", "2"], "--workers 2 needs processes to work in; add --executor processes or ray, "),
])  # fmt: skip
def test_bad_words_for_a_sweep(words: list[str], sentence: str, refused: Callable[..., str], file: Path, tmp_path: Path) -> None:
    assert sentence in refused(*words)
    assert not (tmp_path / "runs").exists()


def test_the_example_of_the_documentation_is_a_sweep() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "sweep.md").read_text(), re.S)
    cells = cells_of(Sweep.read(tomllib.loads(text)))
    assert [cell.name for cell in cells] == ["dwf-seed0", "dwf-seed1", "warm-gate-seed0", "warm-gate-seed1"]
