"""Runs against a baseline, image by image: the pairing, and what is said about it."""

import csv as reader
import importlib
import io
import json

import numpy as np
import pytest
from markupsafe import escape
from report_bits import N, as_seed, edited, give_bits, resave

from dwf import report
from dwf.core.errors import Refused
from dwf.report.duels import compare
from dwf.report.matching import contestants, judge
from dwf.report.paired import holm
from dwf.report.reading import read, read_all

page = importlib.import_module("dwf.report.comparison")


def lines(one, rival=0):
    return {line.row.name: line for line in one.duels[rival].lines}


def test_every_row_and_every_worst_case_is_paired(pair):
    one = compare(pair)
    found = lines(one)
    stored = [json.loads((folder / "eval" / "table3.json").read_text()) for folder in pair]
    bits = [dict(np.load(folder / "eval" / "table3.npz")) for folder in pair]
    assert list(found) == ["clean", *(row["name"] for row in stored[0]["attacks"]), "worst Linf 8/255"]
    for name, line in found.items():
        rows = ["clean", "fgsm", "pgd-50", "pgd-100x3"] if line.row.kind == "worst_case" else [name]
        a, b = (np.logical_and.reduce([side[row] for row in rows]) for side in bits)
        assert (line.a.accuracy, line.b.accuracy) == (a.mean(), b.mean())
        assert line.difference == pytest.approx(b.mean() - a.mean())
        assert (line.paired.only_a, line.paired.only_b) == ((a & ~b).sum(), (b & ~a).sum())
    assert found["worst Linf 8/255"].b.accuracy == stored[1]["worst_case"][0]["accuracy"]
    assert found["fgsm"].verdict == "better"
    assert one.duels[0].headline is found["worst Linf 8/255"]
    assert one.tests == len(found)


def test_the_baseline_comes_first_and_swapping_turns_every_sign(pair):
    there, back = lines(compare(pair)), lines(compare(pair[::-1]))
    turned = {"better": "worse", "worse": "better", "even": "even"}
    for name, line in there.items():
        assert back[name].difference == -line.difference
        assert back[name].paired.low == pytest.approx(-line.paired.high)
        assert back[name].verdict == turned[line.verdict]
        assert back[name].holm == line.holm


def test_a_run_is_even_with_its_double(judged):
    for line in lines(compare([judged("a"), judged("b")])).values():
        assert (line.difference, line.paired.p, line.holm, line.verdict) == (0, 1, 1, "even")
        assert line.paired.low < 0 < line.paired.high


def test_images_are_matched_by_index_and_not_by_place(pair):
    before = lines(compare(pair))
    order = np.random.default_rng(0).permutation(N)
    resave(pair[1], lambda arrays: arrays.update({name: array[order] for name, array in arrays.items()}))
    assert lines(compare(pair)) == before


def test_holm_counts_the_rows_of_all_rivals(pair, judged):
    alone = lines(compare(pair))
    one = compare([*pair, judged("third", strength=0.61, luck=3)])
    assert one.tests == 2 * len(alone)
    family = [line.paired.p for duel in one.duels for line in duel.lines]
    assert [line.holm for duel in one.duels for line in duel.lines] == holm(family)
    assert {name: line.paired for name, line in lines(one).items()} == {name: line.paired for name, line in alone.items()}
    assert [duel.b.name for duel in one.duels] == ["strong", "third"]


def test_seeds_of_one_preset_are_folded_and_not_tested(judged):
    seeds = [as_seed(judged(f"x{i}", strength=0.7 + 0.02 * i, luck=i), i, "x") for i in range(3)]
    for folder in seeds:  # one preset: the fixture tells its runs apart by a setting
        record = json.loads((folder / "run.json").read_text())
        record["settings"]["method"]["experts"] = "x"
        (folder / "run.json").write_text(json.dumps(record))
    one = compare([judged("base", strength=0.6), *seeds, judged("other", strength=0.65)])
    assert [who.name for who in one.contestants] == ["base", "x, 3 seeds", "other"]
    shares = [json.loads((folder / "eval" / "table3.json").read_text())["clean"]["accuracy"] for folder in seeds]
    folded, single = (lines(one, rival)["clean"] for rival in (0, 1))
    assert (folded.b.accuracy, folded.b.deviation) == pytest.approx((np.mean(shares), np.std(shares, ddof=1)))
    assert (folded.paired, folded.holm, folded.verdict) == (None, None, "not tested")
    assert single.paired is not None
    assert one.tests == len(lines(one, 1))
    header, *rows = page.versus(one.duels[0])
    assert header == ["Row", "A, %", "B, %", "B - A"]
    assert "±" in rows[0][2]
    assert "±" not in rows[0][1]
    assert "x, 3 seeds. Across seeds nothing is tested" in " ".join(page.caveats(one))
    assert "between the means, not tested" in page.sentence(one)
    with pytest.raises(Refused, match="the runs are x, 3 seeds and nothing else; name a run of another preset"):
        compare(seeds)


@pytest.mark.parametrize(
    ("seeds", "names", "folded"),
    [
        ((0, 1), ("x", "x"), ["x, 2 seeds"]),
        ((0, 1), ("x", "x-seed1"), ["x, 2 seeds"]),
        ((0, 1), ("x", "y"), ["x", "y"]),
        ((4, 4), ("x", "x_seed4"), ["x", "x_seed4"]),
    ],
)
def test_what_counts_as_a_seed(seeds, names, folded, build):
    folders = [as_seed(build(f"f{i}", n=N), seed, name) for i, (seed, name) in enumerate(zip(seeds, names, strict=True))]
    every = [judge(one) for one in read_all([give_bits(folder) for folder in folders])]
    found = [who.name for who in contestants(every)]
    assert found == folded


def test_the_sentence_names_threat_sides_and_verdict(pair):
    one = compare(pair)
    head = one.duels[0].headline
    said = page.sentence(one)
    assert said.startswith(f"Worst case at Linf 8/255, 400 images, against weak with {100 * head.a.accuracy:.2f} %: strong has ")
    assert f"{100 * head.difference:+.2f} points (95 % interval {100 * head.paired.low:+.2f} to " in said
    assert said.endswith("): better.")
    assert "\n" not in said


def test_a_verdict_that_the_number_of_tests_undoes_is_said(judged):
    one = compare([judged("a"), judged("b")])
    head = one.duels[0].headline
    lucky = type(head)(head.row, head.a, head.b, head.paired._replace(low=0.01, high=0.05, p=0.02), 0.4)
    duel = type(one.duels[0])(one.duels[0].b, (lucky,))
    said = page.sentence(type(one)(one.a, (duel,)))
    assert said.endswith("Holm p 0.4000): better by itself, undecided among all 1 tests.")


def test_what_a_reader_must_know_is_said(judged, alarm):
    a, b = judged("a", flags=[alarm("fgsm_overfit"), alarm("gate_collapse", "worth")]), judged("b")
    for folder in (a, b):
        edited(folder, lambda data: data["dataset"].update(split="val"))
    edited(b, lambda data: data["environment"].update(precision="float32"))
    said = " ".join(page.caveats(compare([a, b])))
    tests = len(lines(compare([a, b])))
    for words in (f"{tests} rows are {tests} tests", "Newcombe 1998", "McNemar", "Holm p counts them all", "luck of training"):
        assert words in said
    assert "a raises fgsm_overfit: its accuracies under attack may be too high." in said
    assert "gate_collapse" not in said
    assert "The attacks were made in different precision: a in bf16 and b in float32." in said
    assert "Measured on the val split: it serves to choose, not to claim." in said


def test_csv_and_json_say_what_the_lines_say(pair, tmp_path):
    one = compare(pair)
    files = page.store(one, tmp_path / "out" / "c.csv", tmp_path / "out" / "c.json")
    assert sorted((tmp_path / "out").iterdir()) == sorted(files)
    data = json.loads(files[1].read_text())
    rows = list(reader.DictReader(io.StringIO(files[0].read_text())))
    assert len(rows) == len(data["duels"][0]["rows"]) == one.tests == data["tests"]
    for line, row, entry in zip(one.duels[0].lines, rows, data["duels"][0]["rows"], strict=True):
        assert row["row"] == entry["row"] == line.row.name
        assert row["difference"] == f"{100 * line.difference:.2f}"
        assert (entry["difference"], entry["low"], entry["high"]) == line.paired[:3]
        assert float(row["p"]) == entry["p"] == line.paired.p
        assert (row["b_is"], int(row["only_b"])) == (entry["b_is"], entry["only_b"]) == (line.verdict, line.paired.only_b)
    assert [run["name"] for run in data["runs"]] == ["weak", "strong"]
    assert data["headline"] == page.sentence(one)


def test_csv_is_inert_in_a_spreadsheet(judged):
    runs = [judged("a"), as_seed(judged("b"), 0, "=HYPERLINK(1)")]
    assert ",'=HYPERLINK(1)," in page.csv(compare(runs))


def test_the_section_stands_only_where_something_is_shared(pair, judged):
    assert list(report.FIGURES)[list(report.FIGURES).index("Results") + 1] == "Comparison"
    draw = report.FIGURES["Comparison"]
    assert draw(read(pair[0])) is None
    assert draw(read_all([pair[0], judged("few", n=200)])) is None
    section = draw(read_all(pair))
    one = compare(pair)
    assert escape(page.sentence(one)) in section
    for line in one.duels[0].lines:
        assert f"<td>{100 * line.difference:+.2f}</td>" in section
    assert section.count("<caption>") == section.count("<table>") == section.count('role="region"') == 3


def test_the_section_says_which_runs_have_no_bits(pair, judged):
    bare = judged("bare", bits=False)
    edited(bare, lambda data: data["dataset"].update(indices=f"first {N}"))
    section = report.FIGURES["Comparison"](read_all([*pair, bare]))
    assert "nothing can be paired: bare (table3)." in section
    assert "against weak" in section
    section = report.FIGURES["Comparison"](read_all([bare, judged("naked", bits=False)]))
    assert "nothing can be paired: bare (table3) and naked (table3)." in section


def test_names_are_escaped(judged):
    evil = "<script>alert(1)</script>"
    section = report.FIGURES["Comparison"](read_all([as_seed(judged("a"), 0, evil), judged("b")]))
    assert evil not in section
    assert "&lt;script&gt;alert(1)" in section


def test_a_protocol_without_a_worst_case_is_compared_on_clean_images(pair):
    for folder in pair:
        edited(folder, lambda data: data.update(worst_case=[], attacks=[]))
    one = compare(pair)
    assert page.sentence(one).startswith("Clean images (no worst case measured), 400 images, against weak with ")
    assert not any("called worst" in thought for thought in page.caveats(one))
    assert report.FIGURES["Comparison"](read_all(pair)).count("<caption>") == 2
