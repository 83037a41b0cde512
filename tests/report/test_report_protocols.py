"""What the report says of the protocols beside table3, on results built by hand."""

import csv as reader
import io
import re
from dataclasses import replace

import numpy as np
from report_protocols import AFTER, EPS, autoattack, evaluated, full, moe, result, row, standard, table3, worst, write
from report_words import PLAIN, text

from dwf import report
from dwf.core.record import FOREIGN
from dwf.report.attacks import attacks
from dwf.report.commands import ask, command
from dwf.report.curves import curves
from dwf.report.experts import experts
from dwf.report.provenance import provenance
from dwf.report.reading import read_all
from dwf.report.rows import cumulative, effort, targets

STRANGER = {"kind": FOREIGN, "model": "their.net:make", "weights": "w.safetensors", "mean": [0.5], "std": [0.25]}
STRANGER |= {"outputs": "probabilities", "fingerprint": "cd" * 32}


def entries(one):
    return {entry.name: entry for entry in one.result.attacks}


# ---- who is attacked


def test_rows_on_survivors_are_cumulative_and_rows_on_right_images_are_not():
    whole, parts = evaluated(full()), evaluated(moe())
    said = {name: (targets(whole, entry), cumulative(whole, entry)) for name, entry in entries(whole).items()}
    assert said["square"] == (AFTER, True)
    assert said["pgd-linf2"] == ("images that are right", False)
    assert said["pgd-50"] == ("all images", False)
    assert said["expert-1"] == ("images that are right", False)
    assert said["routing"] == said["reweighed"] == ("survivors of all before", True)
    assert not any(cumulative(parts, entry) for entry in parts.result.attacks)


def test_effort_is_steps_queries_or_several_attacks():
    rows = entries(evaluated(full()))
    assert [effort(rows[name]) for name in ("square", "pgd-50", "expert-2")] == ["1,000 queries", "50", "PGD 50, then APGD-CE 100"]


def test_every_attack_says_what_it_sees_and_marks_cumulative_and_standardised_rows():
    odd = row("pgd-10", 0.3, space="normalized")
    said = text(attacks([evaluated(full()), evaluated(result("table3", [odd], [worst(0.3, [odd])]), "table3-spacenormalized")]))
    assert "square 40.00 †" in said
    assert "pgd-50 50.00 43.14 to 56.86" in said
    assert "pgd-linf2 70.00 63" in said
    for words in (
        "a softened copy (temperatures: gate 10, experts 100)",
        "another model, other",
        "expert 2 alone",
        "1,000 queries",
    ):
        assert words in said, words
    assert "pgd-10 30.00 ‡" in said
    assert "Linf 8/255 (0.0314) in standardised space" in said
    assert "† counts everything that the row follows and itself" in said
    assert said.index("square") < said.index(" pgd-linf2 70")  # the headline threat first


# ---- experts


def test_experts_by_themselves_and_as_the_system_sees_them():
    said = text(experts([evaluated(moe())]))
    assert "frozen-routing its experts, routing frozen (RA-E) 45.00 38" in said
    assert "routing its routing alone (RA-R) 70.00" in said
    assert "sends 25.00 % (18.93 to 32.24) of 160 attacked images to another expert" in said
    assert "expert 2 70.00 63.32 to 75.93 30.00 24.07 to 36.68 60.00 53.08 to 66.54 200" in said
    assert "oracle 95.00 91" in said
    assert "uniform gate 65.00" in said
    assert "the gate 80.00" in said
    assert "softened-1-10 a softened copy (temperatures: gate 1, experts 10) 42.00 35" in said
    assert "†" not in said


def test_survivors_only_are_marked_and_stand_beside_restarts_of_the_same_price():
    said = text(experts([evaluated(full())]))
    assert "softened-10-100 a softened copy (temperatures: gate 10, experts 100) 38.00 †" in said
    assert said.index("restarts-gradient the whole model 40.00 †") < said.index("softened-10-100 a softened")
    assert "reweighed its experts, reweighed by what they can still change 40.00 †" in said
    assert "no number of its own" in said


def test_experts_that_nobody_attacked_have_no_section():
    assert experts([evaluated(table3()), evaluated(standard()), evaluated(autoattack())]) is None


# ---- curves, models from elsewhere, the whole page


def test_pgd_against_its_radius_where_several_were_run():
    drawn = str(curves([evaluated(one) for one in (full(), standard(), moe(), autoattack())]))
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", drawn)
    assert titles == [f"Accuracy against the PGD radius, {name} on cifar10, test split" for name in ("full", "standard")]
    numbers = text(drawn)
    assert "mix 0.0627 pgd-linf16 20.00" in numbers
    assert "pgd-huge" not in numbers
    assert "the line cannot rise" in numbers
    assert curves([evaluated(moe()), evaluated(autoattack())]) is None


def test_a_model_from_elsewhere_was_not_trained_here():
    one = evaluated(table3(run="theirs", gate=0), method=STRANGER, folder="runs/theirs")
    said = text(provenance([one]))
    assert "Trained not here" in said
    assert "Trained ?" not in said
    for words in ("their.net:make", "w.safetensors", "standardised by mean [0.5] and std [0.25]", "probabilities", "sha256 cdcd"):
        assert words in said, words
    known = "dwf evaluate --model their.net:make --data cifar10 --out runs/theirs --weights w.safetensors --mean 0.5 --std 0.25"
    assert command(one) == f"{known} --protocol table3 --samples 200"
    assert ask(one, "full") == f"{known} --protocol full"
    page = text(report.page([one], report.FIGURES))
    assert "theirs returns probabilities and was attacked through their logarithm" in page
    assert "? threads" not in page


def test_the_command_names_surrogates_and_the_settings_behind_a_hash():
    assert command(evaluated(full())).endswith("--protocol full --samples 200 --surrogate FOLDER-OF-other")
    hashed = replace(evaluated(full()), name="full-0123456789ab")
    assert f"--set protocol.eps={EPS}" in command(hashed)


def test_a_page_of_all_protocols(tmp_path):
    mix = write(tmp_path / "mix", table3(), full(), moe(), standard())
    plain = write(tmp_path / "at", table3(**PLAIN), autoattack(**PLAIN))
    paths = report.write([mix, plain], tmp_path / "report.html")
    html = paths[0].read_text()
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    for heading in ("Experts", "Accuracy against the attack&#39;s strength", "Every attack"):
        assert f">{heading}</h2>" in html
    results = [one.result for one in read_all([mix, plain])]
    lines = [len(one.attacks) + 1 + (4 if one.protocol.name == "standard" else 1) for one in results]  # clean and worst cases
    assert len(list(reader.DictReader(io.StringIO(paths[1].read_text())))) == sum(lines)


def test_images_of_a_protocol_that_attacks_survivors_only(tmp_path):
    folder = write(tmp_path / "mix", standard(), moe())
    clean = np.zeros((2, 3, 8, 8), dtype=np.float32)
    arrays = {"index": np.arange(2), "label": np.arange(2), "clean": clean, "clean_prediction": np.arange(2)}
    eps = {"fgsm_eps": np.float64(EPS), "pgd_eps": np.float64(EPS)}
    np.savez(folder / "eval" / "standard.images.npz", **arrays, **eps)
    np.savez(folder / "eval" / "moe.images.npz", **arrays, **eps, pgd=clean, pgd_prediction=np.arange(2))
    grids = str(report.FIGURES["Images"](report.read(folder)))
    assert "mix, moe: Images under PGD at Linf 8/255" in grids
    assert "FGSM" not in grids
    assert "standard" not in grids
