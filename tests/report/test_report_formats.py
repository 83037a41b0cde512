"""The table says the same in every format, and what it says is what the result files hold."""

import csv as reader
import io
import json
import re

import pytest

from dwf import report
from dwf.report.reading import read_all


def stored(folder, name):
    data = json.loads((folder / "eval" / "table3.json").read_text())
    return f"{100 * next(row['accuracy'] for row in data['attacks'] if row['name'] == name):.2f}"


def markdown_rows(text):
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_csv_holds_every_number_with_its_interval(runs):
    rows = list(reader.DictReader(io.StringIO(report.csv(read_all(runs)))))
    last = {row["run"]: row for row in rows if row["iterate"] == "last"}
    for folder, name in zip(runs, ("dwf-cifar10", "pgd-at"), strict=True):
        for entry in json.loads((folder / "eval" / "table3.json").read_text())["attacks"]:
            if entry["iterate"] == "last":
                bounds = [f"{100 * bound:.2f}" for bound in entry["ci95"]]
                assert last[name][entry["name"]] == f"{100 * entry['accuracy']:.2f}"
                assert [last[name][f"{entry['name']}_{end}"] for end in ("lo", "hi")] == bounds
    assert last["dwf-cifar10"]["worst_case"] == "51.20"
    assert last["dwf-cifar10"]["worst_case_threat"] == "Linf 8/255"
    assert (last["dwf-cifar10"]["trust_flags"], last["dwf-cifar10"]["worth_flags"], last["pgd-at"]["n"]) == ("1", "1", "2000")


def test_csv_has_the_worst_iterate_on_a_line_of_its_own(runs):
    rows = [row for row in reader.DictReader(io.StringIO(report.csv(read_all(runs)))) if row["iterate"] == "worst"]
    assert rows[0]["pgd-10"] == stored(runs[0], "pgd-10-worst")
    assert (rows[0]["SA"], rows[0]["fgsm-0.01"], rows[0]["worst_case"]) == ("", "", "")


def test_csv_is_inert_in_a_spreadsheet(build):
    folder = build("a")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"name": "=HYPERLINK(1)"}))
    assert "'=HYPERLINK(1)" in report.csv(report.read(folder))


def test_markdown_is_the_papers_layout(runs):
    text = report.markdown(read_all(runs))
    first, second = markdown_rows(text)
    radii = [f"FGSM .0{i}" for i in range(1, 10)]
    steps = [f"PGD {k}" for k in (10, 20, 30, 40, 50)]
    assert list(first) == ["Run", "n", "SA", *radii, *steps, "MS", "A", "FGSM 8/255", "Worst case Linf 8/255", "Alarms"]
    assert first["FGSM .05"] == f"**{stored(runs[0], 'fgsm-0.05')}**"
    assert second["MS"] == stored(runs[1], "pgd-100x3")
    assert second["A"] == stored(runs[1], "pgd-100-eot1")
    assert first["Worst case Linf 8/255"].startswith("**51.20** (49.")
    assert (first["Alarms"], second["Alarms"]) == ("1 trust, 1 worth", "none")
    assert "n = 2,000 images" in text
    assert "PGD at Linf 8/255 (0.0314)" in text
    assert "the higher number is not a win" in text


def test_latex_says_what_markdown_says(runs):
    evaluated = read_all(runs)
    lines = [line for line in report.latex(evaluated).splitlines() if line.startswith(("dwf-cifar10 ", "pgd-at "))]
    for line, row in zip(lines, markdown_rows(report.markdown(evaluated)), strict=True):
        cells = re.sub(r"\\textbf\{([^}]*)\}", r"\1", line.removesuffix(r" \\")).split(" & ")
        plain = [re.sub(r" \(.*", "", value.strip("*").replace("** ", " ")) for value in list(row.values())[2:-1]]
        assert cells[1:-1] == plain


def test_latex_escapes(build):
    text = report.latex(report.read(build("50%_of & more")))
    assert "50\\%\\_of \\& more" in text


def test_runs_that_differ_in_the_seed_get_mean_and_deviation(build):
    evaluated = read_all([build("a")])
    record = json.loads((evaluated[0].folder / "run.json").read_text())
    other = build("b", seed=1, strength=0.7)
    text = report.markdown(read_all([evaluated[0].folder, other]))
    assert record["seed"] == 0
    mean = next(row for row in markdown_rows(text) if row["Run"] == "dwf, 2 seeds")
    values = [float(stored(folder, "pgd-50")) for folder in (evaluated[0].folder, other)]
    assert mean["PGD 50"] == f"{sum(values) / 2:.2f} ± {abs(values[0] - values[1]) / 2**0.5:.2f}"


def test_terminal_is_compact(runs):
    header, first, second = report.terminal(read_all(runs))
    radii = ["FGSM .01", "FGSM .03", "FGSM .05", "FGSM .09"]
    assert header == ["Run", "Evaluation", "n", "SA", *radii, "PGD 10", "PGD 50", "MS", "Worst case", "Alarms"]
    assert first[header.index("Worst case")] == "51.20 (Linf 8/255)"
    assert first[-1] == "1 trust, 1 worth"
    assert second[header.index("PGD 50")] == stored(runs[1], "pgd-50")


def test_other_protocols_keep_their_own_rows(build):
    folder = build("a", protocol="standard", evaluations=("standard",))
    path = folder / "eval" / "standard.json"
    data = json.loads(path.read_text())
    row = next(row for row in data["attacks"] if row["name"] == "pgd-50")
    names = {"pgd-50-2": 2 / 255, "pgd-50-8": 8 / 255, "apgd-ce": 8 / 255}
    path.write_text(json.dumps(data | {"attacks": [row | {"name": name, "eps": eps} for name, eps in names.items()]}))
    (read,) = report.read(folder)
    (row,) = markdown_rows(report.markdown([read]))
    assert list(row) == ["Run", "n", "SA", "pgd-50-2", "pgd-50-8", "apgd-ce", "Worst case Linf 8/255", "Alarms"]
    assert report.terminal([read])[0] == ["Run", "Evaluation", "n", "SA", "Worst case", "Alarms"]
    assert report.page([read], report.FIGURES)


@pytest.mark.parametrize("eps", [0.02, 8 / 255])
def test_a_second_radius_is_a_table_of_its_own(build, eps):
    folder = build("a", evaluations=("table3", "table3-other"), eps=eps)
    text = report.markdown(report.read(folder))
    assert text.index("### table3 on cifar10") < text.index("### table3-other on cifar10")
