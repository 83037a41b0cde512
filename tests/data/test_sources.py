"""The registry, what a plain string stands for, the settings around a source, and the embedded digits."""

from pathlib import Path

import pytest
import torch
from pictures import png, write

from dwf.core.errors import Refused
from dwf.data import DATASETS, Data, Digits, Folder, Hub, Parquet, named


def test_registry_is_keyed_by_kind_in_order() -> None:
    assert list(DATASETS) == sorted(DATASETS)
    assert all(member.model_fields["kind"].default == name for name, member in DATASETS.items())


def test_names_and_paths(tmp_path: Path) -> None:
    assert named("digits") == Digits()
    assert named("svhn") == Hub(name="svhn")
    write(tmp_path / "tables" / "data" / "train.parquet", [png()], [0])
    assert named(str(tmp_path / "tables")) == Parquet(path=str(tmp_path / "tables"))
    (tmp_path / "pets" / "train" / "cat").mkdir(parents=True)
    assert named(str(tmp_path / "pets")) == Folder(path=str(tmp_path / "pets"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"the folder '.*empty' has neither parquet files nor a folder 'train'"):
        named(str(tmp_path / "empty"))
    with pytest.raises(
        ValueError, match=r"^there is no data set and no folder 'cifr10'; did you mean 'cifar10'\? Valid: cifar10, "
    ):
        named("cifr10")


def test_settings_accept_strings_and_tables_and_survive_json() -> None:
    for source in ("mnist", {"kind": "hub", "name": "mnist"}, Hub(name="mnist")):
        data = Data.read({"source": source})
        assert data.source == Hub(name="mnist")
        assert Data.read(data.model_dump(mode="json")) == data
    assert Data() == Data.read({"source": "digits"})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source": "cifr10"}, "'source' is 'cifr10': there is no data set and no folder 'cifr10'; did you mean 'cifar10'?"),
        ({"source": {"kind": "hubb"}}, "'source.kind' is 'hubb', which does not exist; did you mean 'hub'?"),
        ({"source": {"kind": "parquet", "pth": "x", "path": "y"}}, "'source.pth' is not a setting; did you mean 'path'?"),
        ({"source": {"kind": "hub", "name": "imagenet"}}, "'source.name' is 'imagenet': input should be 'cifar10'"),
        ({"validation": 0.5}, "'validation' is 0.5: input should be less than 0.5"),
        ({"crop": -1}, "'crop' is -1: input should be greater than or equal to 0"),
        ({"flipp": True}, "'flipp' is not a setting; did you mean 'flip'?"),
    ],
)
def test_wrong_settings(given: dict[str, object], words: str) -> None:
    with pytest.raises(Refused) as caught:
        Data.read(given, where="data")
    assert str(caught.value).startswith(f"data: {words}")


def test_digits() -> None:
    train, test = Digits()("train"), Digits()("test")
    assert (train.pixels.shape, test.pixels.shape) == ((1297, 1, 16, 16), (500, 1, 16, 16))
    assert train.classes == tuple("0123456789")
    assert torch.equal(torch.cat([train.index, test.index]).sort().values, torch.arange(1797))
    assert test.labels.bincount().min() >= 48
    assert train.sha256 == Digits()("train").sha256 != test.sha256
    small = Digits(size=8)("test")
    assert (small.pixels.shape, int(small.pixels.min()), int(small.pixels.max())) == ((500, 1, 8, 8), 0, 255)
    assert torch.equal(small.labels, test.labels)


def test_training_holds_out_a_share_of_what_is_used() -> None:
    train, validation = Data().training(seed=3)
    assert (len(train), len(validation)) == (1167, 130)
    assert not set(train.index.tolist()) & set(validation.index.tolist())
    few, held = Data(limit=100).training(seed=3)
    assert (len(few), len(held)) == (90, 10)
    assert few.labels.bincount(minlength=10).min() >= 8
    assert torch.equal(Data(limit=100).training(seed=3)[0].index, few.index)
    assert len(Data(limit=5000).training(seed=3)[0]) == 1167
    with pytest.raises(Refused, match=r"data\.limit is 5, which leaves images of 5 classes out of 10; raise it"):
        Data(limit=5).training(seed=3)


def test_a_home_that_is_not_there_and_a_name_that_is_too_long() -> None:
    with pytest.raises(Refused, match=r"'~nobody-here/x' begins with the home of a user who is not there"):
        named("~nobody-here/x")
    with pytest.raises(ValueError, match="there is no data set and no folder 'aaa"):
        named("a" * 300)
