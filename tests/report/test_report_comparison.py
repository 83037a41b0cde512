"""Runs against a baseline, image by image: the statistics, the pairing, what is refused, and what is said about it."""

import csv as reader
import importlib
import io
import json
from math import comb

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from markupsafe import escape
from scipy.stats import binomtest

from dwf import report
from dwf.core.errors import Refused
from dwf.report.duels import compare, comparisons
from dwf.report.matching import contestants, judge
from dwf.report.paired import holm, mcnemar, newcombe, paired
from dwf.report.reading import read, read_all

page = importlib.import_module("dwf.report.comparison")
N = 400
counts = st.tuples(*[st.integers(0, 300)] * 4).filter(any)
"""Images that both get right, only the first, only the second, neither."""


@pytest.mark.parametrize(
    ("table", "bounds"),
    [((20, 12, 2, 16), (0.0562, 0.3292)), ((59, 6, 16, 80), (-0.1186, -0.0046)), ((1, 1, 7, 12), (-0.5069, -0.0256))],
)
def test_the_interval_is_the_published_one(table, bounds):
    """Newcombe (1998); Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8."""
    assert newcombe(*table) == pytest.approx(bounds, abs=6e-5)


@given(counts)
def test_the_interval_holds_the_estimate(table):
    _, first, second, _ = table
    low, high = newcombe(*table)
    assert -1 <= low <= (first - second) / sum(table) <= high <= 1
    assert high - low > 0


@given(counts)
def test_the_interval_turns_with_the_sides(table):
    both, first, second, neither = table
    low, high = newcombe(*table)
    assert newcombe(both, second, first, neither) == pytest.approx((-high, -low), abs=1e-12)


@given(counts, st.integers(2, 50))
def test_more_of_the_same_images_narrow_the_interval(table, times):
    low, high = newcombe(*table)
    narrow_low, narrow_high = newcombe(*(times * number for number in table))
    assert narrow_high - narrow_low < high - low


@given(counts)
def test_pairs_that_agree_narrow_the_interval(table):
    both, first, second, neither = table
    assume(both * neither - first * second > sum(table) / 2)
    n = sum(table)
    ends = [binomtest(hits, n).proportion_ci(0.95, method="wilson") for hits in (both + first, both + second)]
    (low_1, high_1), (low_2, high_2) = ends
    p_1, p_2 = (both + first) / n, (both + second) / n
    independent = np.hypot(p_1 - low_1, high_2 - p_2) + np.hypot(high_1 - p_1, p_2 - low_2)
    low, high = newcombe(*table)
    assert high - low < independent


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_fair_coin(a, b):
    few, n = min(a, b), a + b
    tail = 2 * sum(comb(n, k) for k in range(few + 1)) / 2**n
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(min(1.0, tail))


def test_holm_of_a_family_worked_out_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_lies_between_p_and_bonferroni_and_keeps_the_order(ps):
    adjusted = holm(ps)
    for p, q in zip(ps, adjusted, strict=True):
        assert p <= q <= min(1.0, len(ps) * p) or p == q
    ranked = [adjusted[i] for i in sorted(range(len(ps)), key=lambda i: ps[i])]
    assert ranked == sorted(ranked)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_paired_counts_the_images(pairs):
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    found = paired(a, b)
    assert (found.only_a, found.only_b) == (pairs.count((True, False)), pairs.count((False, True)))
    assert found.difference == pytest.approx(b.mean() - a.mean())
    assert found.low <= found.difference <= found.high
    back = paired(b, a)
    assert back[:3] == pytest.approx((-found.difference, -found.high, -found.low), abs=1e-12)
    assert back.p == found.p


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


def flipped(content):
    """With bits that are not those that the archive's checksum was made of."""
    return content[:200] + bytes(255 - byte for byte in content[200:210]) + content[210:]


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


@pytest.fixture
def judged(build):
    """A maker of run folders with bits, each a preset of its own: `judged("name", strength=.8)`."""

    def make(name, *, luck=0, bits=True, **more):
        folder = build(name, n=more.pop("n", N), pictures=False, phases=["train"], **more)
        record = json.loads((folder / "run.json").read_text())
        record["settings"]["method"]["experts"] = name
        (folder / "run.json").write_text(json.dumps(record))
        for evaluation in more.get("evaluations", ("table3",)) if bits else ():
            give_bits(folder, luck=luck, name=evaluation)
        return folder

    return make


@pytest.fixture
def pair(judged):
    return [judged("weak", strength=0.6, luck=1), judged("strong", strength=0.8, luck=2)]


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": {"name": "table3", "settings": {"eps": 0.02}}}, "the settings of the protocol (eps 0.031"),
        ({"dataset": {"split": "val"}}, "the images (cifar10, test split, sha256 abababab against cifar10, val split"),
        ({"dataset": {"sha256": "cd" * 32}}, "against cifar10, test split, sha256 cdcdcdcd); move "),
        ({"dataset": {"indices": "all"}}, f"the samples (first {N} against all)"),
    ],
)
def test_other_settings_and_images_are_refused(change, words, pair):
    edited(pair[1], lambda data: [data[key].update(value) for key, value in change.items()])
    with pytest.raises(Refused) as caught:
        compare(pair)
    said = str(caught.value)
    assert said.startswith("weak and strong cannot be compared on table3: they differ in ")
    assert words in said
    assert f"move {pair[1] / 'eval' / 'table3.json'} away and run: dwf evaluate {pair[1]} --protocol table3" in said
    assert ("--data IMAGES" in said) == ("cdcd" in said)
    assert "\n" not in said
    assert comparisons(read_all(pair)) == []


def test_other_samples_under_the_same_name_are_refused(pair):
    resave(pair[1], lambda arrays: arrays.update(index=arrays["index"] + 3 * 100))
    with pytest.raises(Refused, match=r"they differ in the samples \(300 of 400 images in common\); move "):
        compare(pair)
    assert comparisons(read_all(pair)) == []


def test_other_rows_are_refused(pair):
    edited(pair[1], lambda data: data["attacks"].pop())
    with pytest.raises(Refused) as caught:
        compare(pair)
    assert str(caught.value) == (
        "weak and strong cannot be compared on table3: they differ in the rows of the protocol (pgd-100-eot1-worst); "
        "evaluate both, in this version, by a protocol that asks every model the same, such as table3"
    )


def test_runs_that_share_no_evaluation(judged):
    a, b = judged("a", evaluations=("table3",)), judged("b", evaluations=("table3-eps0.02",))
    with pytest.raises(Refused) as caught:
        compare([a, b])
    assert str(caught.value) == (
        f"the runs share no evaluation (a has table3; b has table3-eps0.02); run: dwf evaluate {b} --protocol table3 --samples {N}"
    )


def test_the_evaluation_is_chosen_by_name(judged):
    both = ("table3", "table3-eps0.02")
    runs = [judged("a", evaluations=both), judged("b", evaluations=both), judged("c", evaluations=both)]
    one = compare(runs)
    assert (one.name, one.also) == ("table3", ("table3-eps0.02",))
    one = compare(runs, "table3-eps0.02")
    assert (one.name, one.also) == ("table3-eps0.02", ("table3",))
    (runs[1] / "eval" / "table3.npz").unlink()  # the first that can be paired
    assert compare(runs).name == "table3-eps0.02"
    (runs[1] / "eval" / "table3.json").unlink()
    assert compare(runs).also == ()
    with pytest.raises(Refused) as caught:
        compare(runs, "table3")
    assert str(caught.value).startswith(f"run {runs[1]} has no evaluation 'table3'; run: dwf evaluate {runs[1]} --protocol table3")
    with pytest.raises(Refused, match=r"has no evaluation 'tabel3'; did you mean 'table3'\? Valid: table3, table3-eps0.02"):
        compare(runs, "tabel3")


def test_one_run_is_no_comparison(pair):
    with pytest.raises(Refused, match="at least two runs and got weak alone; name a baseline, then its rivals"):
        compare([pair[0], pair[0]])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda file: file.unlink(), "are missing or damaged ("),
        (lambda file: file.write_bytes(b""), "are missing or damaged ("),
        (lambda file: file.write_bytes(file.read_bytes()[:500]), "are missing or damaged ("),
        (lambda file: np.savez(file, index=np.arange(N)), f"has no 'clean' for each of {N} images"),
        (lambda file: np.savez(file, index=np.array([None] * N)), "are missing or damaged ("),
        (lambda file: file.write_bytes(flipped(file.read_bytes())), "are missing or damaged ("),
        (lambda file: np.savez(file, index=np.arange(N - 1)), f"has no 'index' for each of {N} images"),
    ],
    ids=["missing", "empty", "truncated", "no rows", "pickled", "flipped", "short"],
)
def test_bits_that_cannot_be_used(damage, words, pair):
    file = pair[1] / "eval" / "table3.npz"
    damage(file)
    with pytest.raises(Refused) as caught:
        compare(pair)
    said = str(caught.value)
    assert str(file) in said
    assert words in said
    assert "delete what is left of this evaluation and run it again: dwf evaluate " in said
    assert "\n" not in said


def test_bits_of_another_result(pair):
    resave(pair[1], lambda arrays: arrays.update({"pgd-50": ~arrays["pgd-50"]}))
    with pytest.raises(Refused, match="does not belong to the result beside it, 'pgd-50' is another accuracy"):
        compare(pair)


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
