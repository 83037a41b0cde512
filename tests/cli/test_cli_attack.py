"""`dwf attack`: what its files hold is what its manifest says, and bad input ends in one sentence before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_words import Dwf
from PIL import Image
from safetensors.torch import load_file, save_file

from dwf import attack, train
from dwf.core.errors import Refused
from dwf.core.types import Threat
from dwf.data import Data, Digits
from dwf.evaluation.validation import Validation
from dwf.methods import Plain
from dwf.models import ResNet
from dwf.run import Run, load
from dwf.training.optim import Recipe
from dwf.verbs.manifest import Manifest, broken, noted, shelf_of, total

Sentence = Callable[..., str]
CPU = ("--device", "cpu", "--quiet")
SOME = ("--samples", 40, *CPU)


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


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(folder / "images.npz", allow_pickle=False) as stored:
        return json.loads((folder / "manifest.json").read_text()), {name: stored[name] for name in stored.files}


def _pixels(folder: Path, manifest: dict[str, Any], key: str) -> torch.Tensor:
    """The files as their reader sees them: (N, 1, H, W) bytes."""
    return torch.stack([torch.from_numpy(np.array(Image.open(folder / entry[key]))) for entry in manifest["images"]])[:, None]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _weights(run: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    file = run / "model.safetensors"
    save_file({name: change(tensor) for name, tensor in load_file(file).items()}, file)


def test_the_files_hold_what_the_manifest_says(dwf: Dwf, able: Path) -> None:
    code, out, err = dwf("attack", able, "--eps", "0.1", "--samples", 40, "--batch", 15, "--device", "cpu", "--out", "made")
    assert code == 0, err
    assert "check 3/3  SA " in out
    folder, loaded = Path("made"), load(able)
    manifest, arrays = _read(folder)
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
    assert _files(Path("one")) == _files(Path("two"))
    assert _files(Path("one")).keys() != _files(Path("other")).keys(), "another seed draws other images"


def test_from_python(able: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()  # an empty folder is no obstacle
    told: list[tuple[int, int]] = []
    manifest = attack(
        able, "fgsm", eps=8 / 255, out=tmp_path / "made", samples=12, batch=5, device="cpu",
        watch=lambda done, total, accuracy: told.append((done, total)),
    )  # fmt: skip
    assert told == [(1, 3), (2, 3), (3, 3)]
    stored, _ = _read(tmp_path / "made")
    assert stored.pop("schema") == 1
    assert Manifest.model_validate(stored) == manifest


def test_rounding_erases_what_is_smaller_than_half_a_level(dwf: Dwf, able: Path) -> None:
    assert dwf("attack", able, "--eps", "0.49/255", "--out", "made", *SOME).code == 0
    manifest, arrays = _read(Path("made"))
    clean = _pixels(Path("made"), manifest, "clean")
    assert torch.equal(_pixels(Path("made"), manifest, "adversarial"), clean)
    assert np.abs(arrays["adversarial"] - clean.numpy() / np.float32(255)).max() > 1e-4
    assert {(entry["distance_rounded"]["linf"], entry["distance_rounded"]["l2"]) for entry in manifest["images"]} == {(0.0, 0.0)}
    assert arrays["prediction/rounded"].tolist() == arrays["prediction/clean"].tolist()


def test_rounding_may_leave_the_ball_by_half_a_level(dwf: Dwf, able: Path) -> None:
    assert dwf("attack", able, "--attack", "fgsm", "--eps", "25.6/255", "--out", "made", *SOME).code == 0
    manifest, _ = _read(Path("made"))
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
    manifest, _ = _read(Path("made"))
    assert (manifest["threat"]["text"], manifest["attack"]["steps"]) == ("L2 0.5", 4)
    assert manifest["attack"]["step"] == 0.3125
    assert all(entry["distance"]["l2"] <= 0.5 + 1e-6 for entry in manifest["images"])
    assert max(entry["distance"]["linf"] for entry in manifest["images"]) > 8 / 255


def test_a_target_must_be_reached_and_its_own_images_stay_out(dwf: Dwf, able: Path) -> None:
    assert dwf("attack", able, "--eps", "0.3", "--target", "3", "--out", "made", *SOME).code == 0
    manifest, arrays = _read(Path("made"))
    assert manifest["target"] == "3"
    assert len(manifest["images"]) == 40
    assert "3" not in {entry["label"] for entry in manifest["images"]}
    assert [entry["broken"] for entry in manifest["images"]] == (arrays["prediction/adversarial"] == 3).tolist()
    assert manifest["totals"]["broken"] > 20 > 10 * (arrays["prediction/clean"] == 3).sum()
    assert "that the model calls '3'" in manifest["note"]


def test_a_surrogate_makes_the_images(dwf: Dwf, able: Path, tmp_path: Path) -> None:
    flat = shutil.copytree(able, tmp_path / "flat")
    _weights(flat, torch.zeros_like)
    words = ("attack", able, "--attack", "fgsm", "--eps", "0.2", *SOME)
    for out, more in (("own", ()), ("twin", ("--surrogate", able)), ("flat-made", ("--surrogate", flat))):
        assert dwf(*words, "--out", out, *more).code == 0
    (own, _), (twin, _), (lame, arrays) = (_read(Path(out)) for out in ("own", "twin", "flat-made"))
    assert twin["surrogate"] == twin["model"] == own["model"]
    assert lame["surrogate"]["weights"] != lame["model"]["weights"]
    assert arrays["prediction/adversarial"].tolist() == arrays["prediction/clean"].tolist(), "zero weights show no way"
    assert own["totals"]["adversarial"]["accuracy"] < lame["totals"]["adversarial"]["accuracy"]


def test_its_files_can_be_attacked_again(dwf: Dwf, able: Path) -> None:
    assert dwf("attack", able, "--eps", "0.2", "--out", "first", *SOME).code == 0
    code, out, err = dwf("attack", able, "--images", "first/adversarial", "--eps", "0.1", "--out", "second", *CPU)
    assert code == 0, err
    assert "40 images of adversarial" in out
    (first, _), (second, _) = _read(Path("first")), _read(Path("second"))
    seen = {entry["adversarial"].removeprefix("adversarial/"): entry["prediction"]["rounded"] for entry in first["images"]}
    assert {entry["source"]: entry["prediction"]["clean"] for entry in second["images"]} == seen, "what was judged is what is read"
    assert all(entry["source"].split("/")[0] == entry["label"] for entry in second["images"])
    assert (second["data"]["name"], second["data"]["split"], second["data"]["n"]) == ("adversarial", "files", 40)
    assert dwf("attack", able, "--images", "first/clean", "--target", "3", "--out", "third", *CPU).code == 0
    third, _ = _read(Path("third"))
    assert {entry["label"] for entry in third["images"]} == {entry["label"] for entry in first["images"]} - {"3"}
    assert all((Path("first") / "clean" / entry["source"]).is_file() for entry in third["images"])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of the run, two grey images of 8x8 pixels each."""
    for name in ("3", "7"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(2):
            _draw(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def _draw(file: Path, shape: tuple[int, ...] = (8, 8)) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).save(file)


def test_pictures_are_converted_on_demand(dwf: Dwf, refused: Sentence, run_folder: Path, pictures: Path) -> None:
    for file in pictures.rglob("*.png"):
        _draw(file, (12, 10, 3))
    words = ("attack", run_folder, "--images", pictures, "--out", "made", *CPU)
    assert refused(*words) == (
        f"the images of pictures are 10x12 RGB, and {run_folder} takes 8x8 grey; convert them, as "
        "--set data.source.mode=grey --set data.source.size=8 does"
    )
    assert dwf(*words, "--set", "data.source.mode=grey", "--set", "data.source.size=8").code == 0
    assert _read(Path("made"))[1]["adversarial"].shape == (4, 1, 8, 8)


def test_bad_pictures_are_named(dwf: Dwf, refused: Sentence, run_folder: Path, pictures: Path) -> None:
    words = ("attack", run_folder, "--images", pictures, "--out", "made", *CPU)
    elsewhere = ("attack", run_folder, "--images", pictures, "--out", "other", *CPU)
    bad = pictures / "7" / "2.png"
    bad.write_bytes((pictures / "7" / "1.png").read_bytes()[:-30])
    assert f"{bad} is truncated or corrupt (" in refused(*words)
    bad.write_text("hello")
    assert refused(*words) == f"{bad} is not an image file; repair the data or leave it out with --set data.source.bad=skip"
    assert dwf(*words, "--set", "data.source.bad=skip").code == 0
    assert {entry["source"] for entry in _read(Path("made"))[0]["images"]} == {"3/0.png", "3/1.png", "7/0.png", "7/1.png"}
    bad.unlink()
    _draw(bad, (9, 8))
    assert f"{bad} is 8x9 pixels large where the others are 8x8" in refused(*elsewhere)
    bad.unlink()
    _draw(pictures / "loose.png")
    assert f"{pictures / 'loose.png'} has no label" in refused(*elsewhere)


def test_pictures_of_a_class_that_the_run_does_not_have(refused: Sentence, run_folder: Path, pictures: Path) -> None:
    (pictures / "77").mkdir()
    assert refused("attack", run_folder, "--images", pictures, "--out", "made") == (
        f"{pictures / '77'} is no class of {run_folder}; did you mean '7'? Valid: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    )


def test_pictures_of_the_target_alone(refused: Sentence, run_folder: Path, pictures: Path) -> None:
    shutil.rmtree(pictures / "7")
    (pictures / "8").mkdir()
    sentence = refused("attack", run_folder, "--images", pictures, "--target", "3", "--out", "made")
    assert "class '3'" in sentence
    shutil.rmtree(pictures / "3")
    assert "pictures holds no images" in refused("attack", run_folder, "--images", pictures, "--out", "made")


@pytest.mark.parametrize(("words", "sentence"), [
    (["--attack", "pdg"], "there is no attack 'pdg'; did you mean 'pgd'? Valid: apgd-ce, "),
    (["--eps", "8"], "it is a share of the pixel range and must be below 1; for 8-bit steps write '8/255'"),
    (["--eps", "much"], "'threat.eps' is 'much': give a number like 0.031 or a fraction like '8/255'"),
    (["--eps", "-1/255"], "'threat.eps' is '-1/255': it must be at least 0 and finite"),
    (["--attack", "carlini-wagner", "--norm", "linf"],
     "attack 'carlini-wagner': threat.norm is 'linf' and carlini-wagner minimises the L2 length; set it to 'l2' or use pgd"),
    (["--set", "attack.step_size=0.1"], "attack 'pgd': 'step_size' is not a setting; did you mean 'steps'? Valid: "),
    (["--set", "attack.steps=0"], "attack 'pgd': 'steps' is 0: "),
    (["--set", "attack.kind=fgsm"], "attack 'pgd': 'kind' is 'fgsm': input should be 'pgd'"),
    (["--set", "attack=3"], "attack 'pgd': 'the whole' is 3: "),
    (["--set", "attack.threat=3"], "attack 'pgd': 'threat' is 3: "),
    (["--set", "attack"], "--set 'attack' is not of the form a.b=value"),
    (["--set", "protocol.eps=0.1"],
     "attack changes the attack, as in --set attack.steps=20, and with --images how they are read, as in "
     "--set data.source.size=32, and no more of 'protocol'; leave it out"),
    (["--set", "data.source.size=32"], "and no more of 'data'; leave it out"),
    (["--target", "cat"], "the target 'cat' is no class of "),
    (["--samples", 501], "501 images of digits were asked for, but there are 500; ask for 1 to 500"),
    (["--images", "."], "both --images and --samples were given; give one of them, a folder with a folder of images for each "),
    (["--device", "quantum"], "device 'quantum' is not available here"),
    (["--surrogate", "nowhere"], "run folder nowhere does not exist; train one with: dwf train PRESET --out nowhere"),
], ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "")  # fmt: skip
def test_bad_words_for_an_attack(words: list[object], sentence: str, refused: Sentence, run_folder: Path) -> None:
    assert sentence in refused("attack", run_folder, *SOME, "--out", "made", *words)
    assert list(Path().iterdir()) == [Path(run_folder.name)], "nothing was begun"


@pytest.mark.parametrize(("words", "sentence"), [
    ([], "neither --images nor --samples was given; give one of them, a folder with a folder of images for each class or a number "
         "of the run's own test images"),
    (["--images", "nowhere"], "nowhere is not a folder; --images needs a folder with a folder of images for each class"),
    (["--images", ".", "--set", "data.flip=false"], "and no more of 'data'; leave it out"),
    (["--images", ".", "--set", "data=3"], "and no more of 'data'; leave it out"),
    (["--images", ".", "--set", "data.source.sizes=8"], "data.source of --images: 'sizes' is not a setting; did you mean 'size'?"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")  # fmt: skip
def test_bad_images(words: list[str], sentence: str, refused: Sentence, run_folder: Path) -> None:
    assert sentence in refused("attack", run_folder, "--out", "made", *words)


def test_a_run_that_is_not_there(refused: Sentence) -> None:
    assert refused("attack", "nowhere", *SOME, "--out", "made") == (
        "run folder nowhere does not exist; train one with: dwf train PRESET --out nowhere"
    )


def test_a_place_that_is_taken_or_cannot_be_written(refused: Sentence, run_folder: Path) -> None:
    before = _files(run_folder)
    for out in (run_folder, run_folder / "run.json"):
        assert refused("attack", run_folder, *SOME, "--out", out) == (
            f"{out} is there already and not an empty folder; move it away or choose another folder with --out"
        )
    assert "is there already and not an empty folder" in refused("attack", run_folder, *SOME, "--out", ".")
    below = run_folder / "run.json" / "made"
    assert (
        refused("attack", run_folder, *SOME, "--out", below) == f"{below} cannot be written (Not a directory); choose another place"
    )
    assert _files(run_folder) == before


def test_a_model_that_answers_nan_leaves_nothing_behind(refused: Sentence, run_folder: Path, tmp_path: Path) -> None:
    _weights(run_folder, lambda tensor: tensor * torch.nan if tensor.is_floating_point() else tensor)
    assert "the model returned NaN or infinite logits under attack" in refused("attack", run_folder, *SOME, "--out", "made")
    assert list(tmp_path.iterdir()) == [run_folder]


def test_only_one_process_attacks(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwf.core.ranks.world", lambda: 2)
    with pytest.raises(Refused, match="attack runs in one process and torchrun started 2; start it without torchrun"):
        attack(run_folder, out=tmp_path / "made", samples=5, device="cpu")


def test_every_class_has_a_folder_that_readers_find() -> None:
    assert [shelf_of(name) for name in ("cat", "tabby, cat", ".cat", "..", "a/b")] == ["cat", "tabby, cat", "_cat", "_.", "a_b"]
