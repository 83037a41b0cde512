"""`dwf attack`: what its files hold is what its manifest says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attack_files import CPU, SOME, change_weights, files, read
from cli_words import Dwf
from PIL import Image

from dwf import attack, train
from dwf.core.types import Threat
from dwf.data import Data, Digits
from dwf.evaluation.validation import Validation
from dwf.methods import Plain
from dwf.models import ResNet
from dwf.run import Run, load
from dwf.training.optim import Recipe
from dwf.verbs.manifest import Manifest, broken, noted, shelf_of, total


@pytest.fixture(scope="session")
def able(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that reads digits well, so that an attack has something to break. Not to be changed."""
    folder = tmp_path_factory.mktemp("able") / "run"
    run = Run(
        name="able",
        data=Data(source=Digits(size=8), limit=600, crop=0, flip=False),
        method=Plain(backbone=ResNet(depth=10, width=8), recipe=Recipe(epochs=4, batch=25)),
        validation=Validation(samples=20, steps=1),
    )
    train(run, folder, device="cpu")
    return folder


def _pixels(folder: Path, manifest: dict[str, Any], key: str) -> torch.Tensor:
    """The files as their reader sees them: (N, 1, H, W) bytes."""
    return torch.stack([torch.from_numpy(np.array(Image.open(folder / entry[key]))) for entry in manifest["images"]])[:, None]


def test_the_files_hold_what_the_manifest_says(dwf: Dwf, able: Path) -> None:
    code, out, err = dwf("attack", able, "--eps", "0.1", "--samples", 40, "--batch", 15, "--device", "cpu", "--out", "made")
    assert code == 0, err
    assert "check 3/3  SA " in out
    folder, loaded = Path("made"), load(able)
    manifest, arrays = read(folder)
    *_, scores, note, where = out.splitlines()
    assert "able, 40 images of digits, pgd Linf 25.5/255 (0.1): accuracy " in scores
    assert note == manifest["note"]
    assert where == "Written: made (adversarial/, clean/, images.npz, manifest.json)"
    assert {file.name for file in folder.iterdir()} == {"adversarial", "clean", "images.npz", "manifest.json"}
    assert len(list(folder.rglob("*.png"))) == 80

    test = loaded.run.data.source("test")
    rows = [test.index.tolist().index(entry["index"]) for entry in manifest["images"]]
    clean, rounded = _pixels(folder, manifest, "clean"), _pixels(folder, manifest, "adversarial")
    assert torch.equal(clean, test.pixels[rows])
    adversarial = torch.from_numpy(arrays["adversarial"])
    assert adversarial.dtype == torch.float32
    assert torch.equal(rounded, (adversarial * 255).round().to(torch.uint8)), "a file is the nearest of 256 levels"

    names = loaded.spec.classes
    labels = test.labels[rows]
    versions = {"clean": clean / 255, "adversarial": adversarial, "rounded": rounded / 255}
    with torch.no_grad():
        named = {
            version: loaded.model(x.contiguous(memory_format=torch.channels_last)).argmax(1) for version, x in versions.items()
        }
    for version, predicted in named.items():
        assert arrays[f"prediction/{version}"].tolist() == predicted.tolist()
        assert [entry["prediction"][version] for entry in manifest["images"]] == [names[i] for i in predicted]
        score = manifest["totals"][version]
        assert score["accuracy"] == pytest.approx((predicted == labels).float().mean().item())
        assert score["n"] == 40
        assert score["ci95"][0] <= score["accuracy"] <= score["ci95"][1]
    assert [entry["broken"] for entry in manifest["images"]] == (named["adversarial"] != labels).tolist()
    assert [entry["broken_rounded"] for entry in manifest["images"]] == (named["rounded"] != labels).tolist()
    assert manifest["totals"]["broken"] == int((named["adversarial"] != labels).sum())
    assert 4 < manifest["totals"]["broken"] < 36, "some break and some do not, or the bits above would say little"
    assert manifest["totals"]["clean"]["accuracy"] > 0.8
    assert [entry["label"] for entry in manifest["images"]] == [names[i] for i in labels]
    assert all(entry["adversarial"] == f"adversarial/{entry['label']}/{entry['index']}.png" for entry in manifest["images"])

    for key, version in (("distance", "adversarial"), ("distance_rounded", "rounded")):
        change = (versions[version] - versions["clean"]).flatten(1)
        assert [entry[key]["linf"] for entry in manifest["images"]] == pytest.approx(change.abs().amax(1).tolist(), abs=1e-6)
        assert [entry[key]["l2"] for entry in manifest["images"]] == pytest.approx(change.norm(dim=1).tolist(), abs=1e-5)
    assert max(entry["distance"]["linf"] for entry in manifest["images"]) == pytest.approx(0.1, abs=1e-6)
    assert manifest["data"]["sha256"] == test.sha256
    assert manifest["threat"] == {"norm": "linf", "eps": 0.1, "text": "Linf 25.5/255 (0.1)"}
    assert manifest["attack"]["step"] == pytest.approx(0.025), "ten steps must be able to cross the ball"
    assert (manifest["seed"], manifest["target"], manifest["surrogate"]) == (0, None, None)
    assert manifest["environment"]["torch"] == torch.__version__


def test_the_same_call_writes_the_same_bytes(dwf: Dwf, able: Path) -> None:
    words = ("attack", able, "--eps", "0.2", "--samples", 20, *CPU)
    for out, more in (("one", ()), ("two", ()), ("other", ("--seed", 1))):
        assert dwf(*words, "--out", out, *more).code == 0
    assert files(Path("one")) == files(Path("two"))
    assert files(Path("one")).keys() != files(Path("other")).keys(), "another seed draws other images"


def test_from_python(able: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()  # an empty folder is no obstacle
    told: list[tuple[int, int]] = []
    manifest = attack(
        able, "fgsm", eps=8 / 255, out=tmp_path / "made", samples=12, batch=5, device="cpu",
        watch=lambda done, total, accuracy: told.append((done, total)),
    )  # fmt: skip
    assert told == [(1, 3), (2, 3), (3, 3)]
    stored, _ = read(tmp_path / "made")
    assert stored.pop("schema") == 1
    assert Manifest.model_validate(stored) == manifest


def test_rounding_erases_what_is_smaller_than_half_a_level(dwf: Dwf, able: Path) -> None:
    assert dwf("attack", able, "--eps", "0.49/255", "--out", "made", *SOME).code == 0
    manifest, arrays = read(Path("made"))
    clean = _pixels(Path("made"), manifest, "clean")
    assert torch.equal(_pixels(Path("made"), manifest, "adversarial"), clean)
    assert np.abs(arrays["adversarial"] - clean.numpy() / np.float32(255)).max() > 1e-4
    assert {(entry["distance_rounded"]["linf"], entry["distance_rounded"]["l2"]) for entry in manifest["images"]} == {(0.0, 0.0)}
    assert arrays["prediction/rounded"].tolist() == arrays["prediction/clean"].tolist()


def test_rounding_may_leave_the_ball_by_half_a_level(dwf: Dwf, able: Path) -> None:
    assert dwf("attack", able, "--attack", "fgsm", "--eps", "25.6/255", "--out", "made", *SOME).code == 0
    manifest, _ = read(Path("made"))
    assert max(entry["distance"]["linf"] for entry in manifest["images"]) <= 25.6 / 255 + 1e-6
    farthest = [entry["distance_rounded"]["linf"] for entry in manifest["images"]]
    assert max(farthest) == pytest.approx(26 / 255, abs=1e-6)
    outside = sum(distance > 25.6 / 255 + 1e-6 for distance in farthest)
    assert manifest["totals"]["outside"] == outside > 0
    assert f"the largest Linf distance is 26/255 (0.102), and {outside} of 40 images left the ball" in manifest["note"]
    assert manifest["note"].endswith("of 25.6/255 (0.1004), which rounding may do by up to 1/510.")


def test_the_note_counts_whom_rounding_saved_and_lost() -> None:
    found = {
        "label": np.array([0, 0, 0, 1]),
        "prediction/clean": np.array([0, 0, 0, 1]),
        "prediction/adversarial": np.array([1, 2, 0, 0]),
        "prediction/rounded": np.array([0, 2, 1, 1]),
        "adversarial": np.zeros((4, 1, 17, 15), np.float32),
        "outside": np.array([True, False, False, False]),
        "linf/rounded": np.array([0.04, 0.03, 0.03, 0.03]),
        "l2/rounded": np.array([0.6, 0.5, 0.5, 0.5]),
    }
    assert noted(found, Threat(), None, None) == (
        "After rounding to 8 bits 2 of the 3 adversarial images that the model gets wrong stopped working and 1 began to; "
        "the largest Linf distance is 10.2/255 (0.04), and 1 of 4 images left the ball of 8/255 (0.0314), "
        "which rounding may do by up to 1/510."
    )
    aimed = noted(found, Threat(norm="l2", eps=0.5), 2, "cat")
    assert (
        "0 of the 1 adversarial image that the model calls 'cat' stopped working and 0 began to; the largest L2 distance is 0.6, "
        in aimed
    )
    assert aimed.endswith("left the ball of 0.5, which rounding may do by up to 0.0313.")  # sqrt(255) / 510
    assert total(found, None).model_dump(include={"broken", "broken_rounded", "outside"}) == {
        "broken": 3, "broken_rounded": 2, "outside": 1,
    }  # fmt: skip
    assert broken(found, "adversarial", 2).tolist() == [False, True, False, False]


def test_l2_has_a_radius_and_a_step_of_its_own(dwf: Dwf, able: Path) -> None:
    code, _, err = dwf("attack", able, "--norm", "l2", "--set", "attack.steps=4", "--out", "made", *SOME)
    assert code == 0, err
    manifest, _ = read(Path("made"))
    assert (manifest["threat"]["text"], manifest["attack"]["steps"]) == ("L2 0.5", 4)
    assert manifest["attack"]["step"] == 0.3125
    assert all(entry["distance"]["l2"] <= 0.5 + 1e-6 for entry in manifest["images"])
    assert max(entry["distance"]["linf"] for entry in manifest["images"]) > 8 / 255


def test_a_target_must_be_reached_and_its_own_images_stay_out(dwf: Dwf, able: Path) -> None:
    assert dwf("attack", able, "--eps", "0.3", "--target", "3", "--out", "made", *SOME).code == 0
    manifest, arrays = read(Path("made"))
    assert manifest["target"] == "3"
    assert len(manifest["images"]) == 40
    assert "3" not in {entry["label"] for entry in manifest["images"]}
    assert [entry["broken"] for entry in manifest["images"]] == (arrays["prediction/adversarial"] == 3).tolist()
    assert manifest["totals"]["broken"] > 20 > 10 * (arrays["prediction/clean"] == 3).sum()
    assert "that the model calls '3'" in manifest["note"]


def test_a_surrogate_makes_the_images(dwf: Dwf, able: Path, tmp_path: Path) -> None:
    flat = shutil.copytree(able, tmp_path / "flat")
    change_weights(flat, lambda tensor: tensor * (tensor.dim() < 2 or tensor.numel() == 1))  # all images score the same
    words = ("attack", able, "--attack", "fgsm", "--eps", "0.2", *SOME)
    for out, more in (("own", ()), ("twin", ("--surrogate", able)), ("flat-made", ("--surrogate", flat))):
        assert dwf(*words, "--out", out, *more).code == 0
    (own, _), (twin, _), (lame, arrays) = (read(Path(out)) for out in ("own", "twin", "flat-made"))
    assert twin["surrogate"] == twin["model"] == own["model"]
    assert lame["surrogate"]["weights"] != lame["model"]["weights"]
    assert arrays["prediction/adversarial"].tolist() == arrays["prediction/clean"].tolist(), "zero weights show no way"
    assert own["totals"]["adversarial"]["accuracy"] < lame["totals"]["adversarial"]["accuracy"]


def test_its_files_can_be_attacked_again(dwf: Dwf, able: Path) -> None:
    assert dwf("attack", able, "--eps", "0.2", "--out", "first", *SOME).code == 0
    code, out, err = dwf("attack", able, "--images", "first/adversarial", "--eps", "0.1", "--out", "second", *CPU)
    assert code == 0, err
    assert "40 images of adversarial" in out
    (first, _), (second, _) = read(Path("first")), read(Path("second"))
    seen = {entry["adversarial"].removeprefix("adversarial/"): entry["prediction"]["rounded"] for entry in first["images"]}
    assert {entry["source"]: entry["prediction"]["clean"] for entry in second["images"]} == seen, "what was judged is what is read"
    assert all(entry["source"].split("/")[0] == entry["label"] for entry in second["images"])
    assert (second["data"]["name"], second["data"]["split"], second["data"]["n"]) == ("adversarial", "files", 40)
    assert dwf("attack", able, "--images", "first/clean", "--target", "3", "--out", "third", *CPU).code == 0
    third, _ = read(Path("third"))
    assert {entry["label"] for entry in third["images"]} == {entry["label"] for entry in first["images"]} - {"3"}
    assert all((Path("first") / "clean" / entry["source"]).is_file() for entry in third["images"])


def test_every_class_has_a_folder_that_readers_find() -> None:
    assert [shelf_of(name) for name in ("cat", "tabby, cat", ".cat", "..", "a/b")] == ["cat", "tabby, cat", "_cat", "_.", "a_b"]
