"""The page: self-contained, escaped, well-formed, and honest about what was measured."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import Markup

from dwf import report
from dwf.core.result import from_json
from dwf.report.curves import curves
from dwf.report.layout import groups
from dwf.report.markup import FEW, blocks
from dwf.report.provenance import command
from dwf.report.reading import read_all

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Checks the balance of tags and collects what the tests ask about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), self.open[-1] if self.open else None))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), self.open[-1]))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, name):
        return [attributes for tag, attributes, _ in self.tags if tag == name]


@pytest.fixture
def html(runs):
    return report.page(read_all(runs), report.FIGURES)


@pytest.fixture
def page(html):
    return Page(html)


def test_write_makes_five_files(runs, tmp_path):
    paths = report.write(runs, tmp_path / "out" / "report.html")
    assert [path.name for path in paths] == ["report.html", "report.csv", "report.runs.csv", "report.md", "report.tex"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    assert "51.20" in paths[0].read_text()
    assert paths[0].read_text() == report.page(read_all(runs), report.FIGURES)  # the same files give the same page


def test_nothing_is_loaded_from_elsewhere(html, page):
    for tag, attributes, _ in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, target)
    assert not page.all("script")
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_structure(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == 1
    ids = [attributes["id"] for _, attributes, _ in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    pointed = [a[k].split() for _, a, _ in page.tags for k in ("aria-labelledby",) if k in a]
    pointed += [[a["href"][1:]] for _, a, _ in page.tags if a.get("href", "").startswith("#")]
    assert {name for names in pointed for name in names} <= set(ids)
    assert [text["id"] for text in page.all("section") if "id" in text] == [
        re.sub("[^a-z]+", "-", heading.lower())
        for heading in report.FIGURES
        if heading not in ("Experts", "Certified radii")  # nobody attacked them, nobody asked
    ]


def test_a_screen_reader_gets_every_picture_and_table(page):
    assert page.all("img")
    assert all(image["alt"] for image in page.all("img"))
    drawings = page.all("svg")
    assert len(drawings) >= 5
    assert all(drawing["role"] == "img" for drawing in drawings)
    assert sum(tag == "title" and parent == "svg" for tag, _, parent in page.tags) == len(drawings)
    assert sum(tag == "desc" and parent == "svg" for tag, _, parent in page.tags) == len(drawings)
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in cell for cell in page.all("th"))
    assert len(page.all("figcaption")) == len(page.all("figure")) == len(drawings)


def test_drawings_follow_the_page(html):
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--ink)" in drawings
    assert "var(--series-0)" in drawings
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawings)) <= {"#ffffff"}  # matplotlib's clipping paths are never painted
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", html)) <= set(re.findall(r"(--[a-z0-9-]+):", html))


def test_numbers_stand_with_threat_interval_and_n(page):
    text = " ".join(" ".join(page.text).split())
    for words in ("Worst case, Linf 8/255 (0.0314)", "95 % interval 49.01 to 53.39", "n = 2,000 images", "cifar10", "2.55/255"):
        assert words in text, words
    for words in ("fgsm_beats_pgd", "doubts the number", "doubts the architecture", "Raise steps.", "2 alarms: 1 trust, 1 worth"):
        assert words in text, words
    assert "sha256 abab" in text
    assert "pgd-1 weighs most" in text or "weighs most" in text


def test_everything_from_a_file_is_escaped(build, alarm):
    evil = "<script>alert(1)</script>"
    flags = [alarm() | {"cause": evil, "remedy": '"><img src=x onerror=alert(1)>', "code": evil}]
    folder = build("x", classes=[evil, "'\"&", "_hidden", "$a^b$", "猫"], flags=flags, phases=[evil, "_x", "$y$"], method=evil)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"name": f"_{evil} $"}))
    text = report.page(report.read(folder), report.FIGURES)
    page = Page(text)
    assert not page.all("script")
    assert "onerror" not in {name for _, attributes, _ in page.tags for name in attributes}
    assert "&lt;script&gt;alert(1)" in text
    assert evil not in report.markdown(report.read(folder))


def test_different_images_are_said(build):
    same, other = build("a"), build("b", n=500)
    text = report.page(read_all([same, other]), report.FIGURES)
    assert "evaluated on different images" in text
    assert "evaluated on different images" not in report.page(read_all([same]), report.FIGURES)
    assert not groups(read_all([same, other]))[0].same_images


def test_validation_images_and_other_spaces_are_said(folder):
    path = folder / "eval" / "table3.json"
    data = json.loads(path.read_text())
    data["dataset"]["split"] = "val"
    data["attacks"][0]["space"] = "normalized"
    path.write_text(json.dumps(data))
    text = report.page(report.read(folder), report.FIGURES)
    assert "val split: it serves to choose, not to claim" in text
    assert "attacks in standardised space" in text


def test_a_page_of_gradient_attacks_says_so(build):
    assert "No black-box and no transfer attack has tried a:" in report.page(read_all([build("a")]), report.FIGURES)


def test_the_command_repeats_what_the_name_says(folder):
    (one,) = report.read(folder)
    assert command(one) == f"dwf evaluate {folder} --protocol table3 --samples {one.result.dataset.n}"
    data = json.loads((folder / "eval" / "table3.json").read_text())
    data["protocol"]["settings"]["eps"] = 0.02
    (folder / "eval" / "table3-eps0.02.json").write_text(json.dumps(data))
    assert (
        command(report.read(folder)[1])
        == f"dwf evaluate {folder} --protocol table3 --set protocol.eps=0.02 --samples {one.result.dataset.n}"
    )


def test_the_command_names_no_setting_that_is_none_and_no_folder_that_it_does_not_know(folder):
    file = folder / "eval" / "table3.json"
    data = json.loads(file.read_text())
    data["protocol"]["settings"] |= {"step": None, "eps": 0.02}
    data["attacks"][0]["settings"]["view"] = {"kind": "Another", "name": "other"}
    (folder / "eval" / "table3-0123456789ab.json").write_text(json.dumps(data))
    said = command(report.read(folder)[1])
    assert "protocol.eps=0.02" in said
    assert "protocol.step=" not in said
    assert said.endswith("--surrogate FOLDER-OF-other")


def test_perturbations_are_drawn_as_large_as_fits(folder, pictures):
    text = report.page(report.read(folder), report.FIGURES)
    assert "FGSM adds (x10)" in text
    file = folder / "eval" / "table3.images.npz"
    with np.load(file) as stored:
        wide = {**stored, "fgsm": np.clip(stored["clean"] + 0.25, 0, 1)}
    np.savez(file, **wide)
    text = report.page(report.read(folder), report.FIGURES)
    assert "FGSM adds (x2)" in text
    assert "PGD adds (x10)" in text


def test_several_draws_are_no_point_of_the_line_of_steps(folder):
    file = folder / "eval" / "table3.json"
    said = file.read_text()
    drawn = str(curves(report.read(folder)))
    assert "between 10 and 100 on the horizontal axis" in drawn
    file.write_text(said.replace("eot1", "eot10"))
    drawn = str(curves(report.read(folder)))
    assert "between 10 and 50 on the horizontal axis" in drawn
    assert "pgd-100-eot10" in drawn


def test_a_protocol_that_measured_next_to_nothing(folder):
    path = folder / "eval" / "table3.json"
    data = json.loads(path.read_text())
    bare = data | {"attacks": [], "worst_case": [], "per_class": [], "routing": None}
    from_json(bare, where="test")
    path.write_text(json.dumps(bare))
    (folder / "eval" / "table3.images.npz").unlink()
    page = Page(report.page(report.read(folder), report.FIGURES))
    assert "This protocol measures no worst case in pixels." in " ".join(page.text)


def test_greyscale_and_odd_journals(folder, pictures):
    pictures(folder / "eval" / "table3.images.npz", channels=1, size=28)
    lines = [{"event": "round", "phase": "train", "round": 0, "rounds": 1, "loss": float("nan")}, {"event": "stopped"}]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Page(report.page(report.read(folder), report.FIGURES))


def test_more_than_a_few_blocks_are_folded_and_none_is_lost():
    found = [(f"run {number}", Markup(f"<p>text {number}</p>")) for number in range(FEW + 1)]
    few, many = str(blocks(found[:FEW])), str(blocks(found))
    assert (few.count("<h3>"), few.count("<details"), blocks([])) == (FEW, 0, None)
    assert (many.count("<h3>"), many.count("<details")) == (0, FEW + 1)
    assert all(f"<summary>run {number}</summary><p>text {number}</p></details>" in many for number in range(FEW + 1))
