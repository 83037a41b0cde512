from pathlib import Path
from typing import Any, get_args

import huggingface_hub
import pytest
from pictures import png, write

from dwf.core.errors import Refused
from dwf.data import Hub, hub

FOUR = [png(i) for i in range(4)]


def _serve(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[dict[str, Any]]:
    """Stands in for the hub's client: answers with `root` and keeps what it was asked."""
    asked: list[dict[str, Any]] = []

    def snapshot(repository: str, **settings: Any) -> str:
        asked.append({"repository": repository, **settings})
        return str(root)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return asked


def test_every_name_has_a_place() -> None:
    assert set(get_args(Hub.model_fields["name"].annotation)) == set(hub.PLACES)


def test_reads_what_was_fetched_and_asks_for_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _serve(monkeypatch, tmp_path)
    write(
        tmp_path / "cifar100" / "train-00000-of-00001.parquet", FOUR, [0, 1, 1, 0], ["cat", "dog"], image="img", label="fine_label"
    )
    images = Hub(name="cifar100")("train")
    assert (images.name, images.classes, len(images)) == ("cifar100", ("cat", "dog"), 4)
    assert asked[0]["repository"] == "uoft-cs/cifar100"
    assert asked[0]["allow_patterns"] == ["cifar100/train*.parquet"]
    assert (asked[0]["repo_type"], asked[0]["local_files_only"]) == ("dataset", False)
    assert asked[0]["etag_timeout"] <= 10, "without a network the user hears it soon"


def test_tiny_imagenet_has_a_valid_split_and_grey_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, tmp_path)
    write(tmp_path / "data" / "valid-00000-of-00001-70d52db3c749a935.parquet", [*FOUR, png(5, "L")], [0, 1, 1, 0, 1])
    assert Hub(name="tiny-imagenet")("test").pixels.shape == (5, 3, 12, 12)


def test_incomplete_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, tmp_path)
    with pytest.raises(Refused, match=r"^data set 'mnist' \(test\) could not be read .* its copy in the cache is incomplete; "):
        Hub(name="mnist", offline=True)("test")


@pytest.mark.parametrize(("offline", "reason"), [(False, "the hub could not be reached"), (True, "it is not in the cache")])
def test_no_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch, offline: bool, reason: str) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise ConnectionError("name or service not known\nand a page of more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(Refused) as caught:
        Hub(name="cifar10", offline=offline)("train")
    assert str(caught.value) == (
        f"data set 'cifar10' (train) could not be read from the Hugging Face hub because {reason}; connect and try again, give a "
        "folder with its parquet files with --data FOLDER, or point HF_HOME to a filled cache"
    )


def _cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Points the real client to an empty cache of the test's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    original = huggingface_hub.snapshot_download
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kw: original(*args, cache_dir=tmp_path, **kw))
    return tmp_path / "datasets--ylecun--mnist"


def test_real_client_reads_a_filled_cache_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = _cached(tmp_path, monkeypatch)
    with pytest.raises(Refused, match="because it is not in the cache"):
        Hub(name="mnist", offline=True)("train")
    commit = "0" * 40
    write(
        repository / "snapshots" / commit / "mnist" / "train-00000-of-00001.parquet", [png(i, "L") for i in range(4)], [0, 1, 1, 0]
    )
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert Hub(name="mnist", offline=True)("train").pixels.shape == (4, 1, 12, 12)


def test_real_client_without_a_network_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cached(tmp_path, monkeypatch)
    original = huggingface_hub.snapshot_download
    closed = "http://127.0.0.1:9"  # nothing listens there, so the test is the same with and without a network
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kw: original(*args, endpoint=closed, **kw))
    with pytest.raises(Refused, match="because the hub could not be reached; connect and try again"):
        Hub(name="mnist")("train")
