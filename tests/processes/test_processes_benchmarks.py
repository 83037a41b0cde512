"""Every benchmark runs small, from command line to record; pages and README show the figures that are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ablation
import cost
import everything
import pytest
import rivals
import scale

HERE = Path(everything.__file__).parent
ALONE = [words for words in everything.COMPARISONS.values() if "--data=DATA" not in words]


@pytest.mark.slow
@pytest.mark.parametrize("words", [*ALONE, ["gpu.py", "--device=cpu"], ["epochs.py", "--device=cpu"]], ids=" ".join)
def test_a_benchmark_runs_small(words: list[str]) -> None:
    record = everything.run(words, None, quick=True)
    assert record["machine"]["threads"] >= 1
    assert everything.page({"some_figures": record}).count("\n## ") == 1


RECORD = {
    "command": "python benchmarks/share.py",
    "minutes": 1.5,
    "benchmark": "share",
    "machine": {"threads": 2},
    "settings": {"width": 64},
    "times": 1.2345,
    "by_size": {"small": {"seconds_a_step": 0.001234, "rate": 123456.7}, "large": {"rate": [1.0, 2.0]}},
    "deep": {"one": {"two": {"three": 7}}},
}


def test_the_page_shows_every_figure() -> None:
    page = everything.page({"matrix_share": RECORD})
    for line in (
        "## Matrix share\n\nHow much of the processor's matrix rate",
        "Not measured since they last changed: `joint_step`, ",
        "`python benchmarks/share.py` (1.5 minutes; threads 2)",
        "- times: 1.23",
        "| settings |  |\n| --- | --- |\n| width | 64 |",
        "| by size | seconds a step | rate |\n| --- | --- | --- |\n| small | 0.00123 | 123,457 |\n| large |  | 1, 2 |",
        "| deep: one | three |\n| --- | --- |\n| two | 7 |",
    ):
        assert line in page, line


def test_figures_of_an_earlier_version_of_their_script_are_told() -> None:
    said = "Measured by an earlier version of their script: `matrix_share`."
    assert said in everything.page({"matrix_share": RECORD})
    assert said not in everything.page({"matrix_share": {**RECORD, "script": everything.checksum("share.py")}})


def test_the_kept_page_is_that_of_the_kept_figures() -> None:
    assert everything.PAGE.read_text() == everything.page(json.loads(everything.LATEST.read_text()))


def between_marks(document: Path) -> str:
    return document.read_text().partition("<!-- tables -->\n")[2].partition("<!-- end of tables -->\n")[0]


def test_the_readme_says_what_the_results_say() -> None:
    assert between_marks(rivals.README) == rivals.summary()
    assert between_marks(rivals.DOCUMENT) == rivals.details()


def test_every_run_of_the_results_is_in_the_readme() -> None:
    rows = {line.split("|")[1].strip() for line in rivals.README.read_text().splitlines() if line.startswith("| ")}
    runs = {folder.name for folder in rivals.RESULTS.iterdir() if any(folder.glob("eval/*.json"))}
    assert runs - rows == set()


def test_a_benchmark_without_its_data_is_skipped_with_the_reason(tmp_path: Path) -> None:
    words = [HERE / "everything.py", "--quick", "--only", "attacks", "--json", tmp_path / "all.json"]
    said = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout
    assert said == "attacks: skipped, needs --data FOLDER with CIFAR-10\n"
    assert not (tmp_path / "all.json").exists()


@pytest.mark.slow
def test_the_document_on_the_ablation_says_what_the_results_say() -> None:
    assert between_marks(ablation.DOCUMENT) == ablation.tables()


@pytest.mark.slow
def test_the_document_on_cost_says_what_the_results_say() -> None:
    sweep = cost.RESULTS.parent / "cost-cifar10-mini"
    assert between_marks(cost.DOCUMENT) == cost.tabulated(cost.ordered(sweep)) + cost.absent(sweep)


FRONTS = [([(1, 0.2), (2, 0.3), (3, 0.3)], [True, True, False]), ([(1, 0.3), (1, 0.2)], [True, False])]


@pytest.mark.parametrize(("points", "leads"), [*FRONTS, ([(1, 0.2), (1, 0.2)], [True, True])])
def test_the_front_is_who_nobody_beats(points: list[tuple[float, float]], leads: list[bool]) -> None:
    assert cost.front(points) == leads


def test_the_document_on_scale_says_what_the_model_says() -> None:
    _, _, rest = scale.DOCUMENT.read_text().partition("<!-- tables -->\n")
    assert rest.partition("<!-- end of tables -->\n")[0] == scale.tables()


@pytest.mark.parametrize("gpus", [2, 8, 64, 512])
def test_averaging_takes_a_rings_bytes_and_a_trees_messages(gpus: int) -> None:
    free = scale.averaging(gpus, 1e9, inside=1e9, between=1e9, latency=0.0)
    assert free == pytest.approx(2 * (gpus - 1) / gpus)
    assert scale.averaging(gpus, 0.0, latency=1.0) == pytest.approx(2 * (gpus.bit_length() - 1))
    assert scale.averaging(1, 1e9) == 0
