"""Runs that cannot be paired image by image are refused in one sentence that says what to do."""

import numpy as np
import pytest
from report_bits import N, edited, resave

from dwf.core.errors import Refused
from dwf.report.duels import compare, comparisons
from dwf.report.reading import read_all


def flipped(content):
    """With bits that are not those that the archive's checksum was made of."""
    return content[:200] + bytes(255 - byte for byte in content[200:210]) + content[210:]


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


@pytest.mark.parametrize("changed", [False, True])
def test_a_setting_that_only_the_newer_file_names_counts_by_what_it_does(changed, pair):
    def renew(data):
        data["protocol"]["settings"]["later"] = 1
        for attack in data["attacks"] if changed else ():
            attack["settings"]["later"] = 1

    edited(pair[1], renew)
    if not changed:
        assert compare(pair).tests
        return
    with pytest.raises(Refused, match="they differ in the attacks of the protocol, of which only one names later; move "):
        compare(pair)


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
