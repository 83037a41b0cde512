"""The table says the same in every format, and what it says is what the result files hold."""

import csv as reader
import io
import json
import re

import pytest

from dwf import report
from dwf.core.errors import Refused
from dwf.core.wording import duration
from dwf.report.cost import cost
from dwf.report.reading import read_all


def stored(folder, name):
    data = json.loads((folder / "eval" / "table3.json").read_text())
    return f"{100 * next(row['accuracy'] for row in data['attacks'] if row['name'] == name):.2f}"


def markdown_rows(text, heading="### table3"):
    """The table under a heading."""
    text = text[text.index(heading) :].removeprefix("### ").partition("\n### ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def csv_rows(text):
    return list(reader.DictReader(io.StringIO(text)))


def test_csv_holds_every_number_with_its_interval(runs):
    rows = {(row["run"], row["row"], row["iterate"]): row for row in csv_rows(report.csv(read_all(runs)))}
    for folder, name in zip(runs, ("dwf-cifar10", "pgd-at"), strict=True):
        entries = json.loads((folder / "eval" / "table3.json").read_text())["attacks"]
        for entry in entries:
            row = rows[name, entry["name"].removesuffix("-worst"), entry["iterate"]]
            assert row["accuracy"] == f"{100 * entry['accuracy']:.2f}"
            assert [row["low"], row["high"]] == [f"{100 * bound:.2f}" for bound in entry["ci95"]]
            assert (row["n"], row["steps"], row["on"], row["cumulative"]) == ("2000", str(entry["steps"]), "all images", "no")
        assert sum(key[0] == name for key in rows) == len(entries) + 2  # clean, and the headline worst case
    worst = rows["dwf-cifar10", "worst case", ""]
    assert (worst["accuracy"], worst["norm"], worst["eps"]) == ("51.20", "linf", "0.0313725")
    assert (worst["trust_flags"], worst["worth_flags"]) == ("1", "1")


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
    assert (first["Alarms"], second["Alarms"]) == ("1 trust, 1 worth", "none of 4")
    assert "n = 2,000 images" in text
    assert "PGD at Linf 8/255 (0.0314)" in text
    assert "the higher number is not a win" in text


def test_latex_says_what_markdown_says(runs):
    evaluated = read_all(runs)
    tables = report.latex(evaluated).partition("\\end{table*}")[2]  # after the overview
    lines = [line for line in tables.splitlines() if line.startswith(("dwf-cifar10 ", "pgd-at "))]
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


def test_seeds_of_several_variants_of_a_method_go_by_their_names(build):
    folders = [build(f"{name}-seed{seed}", seed=seed) for name in ("dwf", "warm-gate") for seed in (0, 1)]
    for folder in folders:
        record = json.loads((folder / "run.json").read_text())
        record["settings"]["method"]["variant"] = folder.name.partition("-seed")[0]
        (folder / "run.json").write_text(json.dumps(record))
    rows = {row["Run"] for row in markdown_rows(report.markdown(read_all(folders)))}
    assert {"dwf, 2 seeds", "warm-gate, 2 seeds"} <= rows


def test_time_that_was_spent_in_another_run_is_said_to_be(build):
    folder = build("a", phases=["fgsm-1", "pgd-1", "joint"])
    before = cost(report.read(folder))
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    marked = [{**line, "reused_from": "b/phases/fgsm-1"} if line.get("phase") == "fgsm-1" else line for line in lines]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in marked))
    after = cost(report.read(folder))
    assert "in another run" not in before
    spent = sum(line["seconds"] for line in marked if "reused_from" in line and "seconds" in line)
    assert f"{duration(3 * spent)}, {duration(spent)} of it in another run" in after


def test_terminal_is_compact(runs):
    ((header, first, second),) = report.terminal(read_all(runs))
    radii = ["FGSM .01", "FGSM .03", "FGSM .05", "FGSM .09"]
    assert header == ["Run", "Evaluation", "n", "SA", *radii, "PGD 10", "PGD 50", "MS", "Worst case", "Alarms"]
    assert first[header.index("Worst case")] == "51.20 (Linf 8/255)"
    assert first[-1] == "1 trust, 1 worth"
    assert second[header.index("PGD 50")] == stored(runs[1], "pgd-50")


@pytest.mark.parametrize("eps", [0.02, 8 / 255])
def test_a_second_radius_is_a_table_of_its_own(build, eps):
    folder = build("a", evaluations=("table3", "table3-other"), eps=eps)
    text = report.markdown(report.read(folder))
    assert text.index("### table3 on cifar10") < text.index("### table3-other on cifar10")


def test_only_one_run_a_seed_and_equal_images_make_a_mean(build):
    """A copy of a folder is no second seed, and other images are no second measurement."""
    first, copy, other, few = build("a"), build("copy"), build("b", seed=1), build("few", seed=2, n=500)
    rows = markdown_rows(report.markdown(read_all([first, copy, other])))
    assert not [row["Run"] for row in rows if "seeds" in row["Run"]]
    rows = markdown_rows(report.markdown(read_all([first, other, few])))
    assert [row["Run"] for row in rows if "seeds" in row["Run"]] == ["dwf, 2 seeds"]


def test_nothing_is_highest_among_numbers_of_other_images(build):
    alike = [build("a"), build("b", strength=0.7)]
    assert "**" in report.markdown(read_all(alike))
    assert "**" not in report.markdown(read_all([*alike, build("few", n=500)]))


def plan(folder, seconds):
    record = json.loads((folder / "run.json").read_text())
    phases = [{"name": name, "seconds": seconds} for name in ("fgsm-1", "joint")]
    return {"schema": 1, "settings": record["settings"], "environment": record["environment"], "phases": phases}


def test_a_plan_stands_beside_what_was_spent_where_both_are_known(build):
    folder = build("a", phases=["fgsm-1", "joint"])
    (folder / "plan.json").write_text(json.dumps(plan(folder, 612.0)))
    assert "0.60" in cost(report.read(folder)), "6 rounds of 61.2 s"
    (folder / "train.jsonl").unlink()
    assert "Planned and spent" not in cost(report.read(folder))


@pytest.mark.parametrize("name", ["page.md", "page.tex", "page.csv", "page.runs.csv"])
def test_what_somebody_else_wrote_is_not_replaced(build, name, tmp_path):
    """The user named the page alone."""
    folder, theirs = build("a"), tmp_path / name
    theirs.write_text("# My project")
    with pytest.raises(Refused, match=f"{re.escape(name)} is there already and no table of a report; give the page another name"):
        report.write([folder], tmp_path / "page.html")
    assert (theirs.read_text(), (tmp_path / "page.html").exists()) == ("# My project", False)
    theirs.unlink()
    for _ in range(2):
        assert len(report.write([folder], tmp_path / "page.html")) == 5


def test_an_evaluations_time_is_that_of_all_its_processes(build):
    folder = build("a", n=500)
    file = folder / "eval" / "table3.json"
    found = json.loads(file.read_text())
    work = sum(row["seconds"] for row in found["attacks"])
    for clock, said in ((1.0, duration(work)), (2 * work, duration(2 * work))):
        found["environment"]["seconds"] = clock
        file.write_text(json.dumps(found))
        assert f">{said}<" in cost(report.read(folder))
