import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import REAL, pixels, png, write

from dwf.core.errors import Refused
from dwf.data import Parquet

FOUR = [png(i) for i in range(4)]
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets (../shared/data) are not here")


def _source(folder: Path, **settings: str) -> Parquet:
    return Parquet.model_validate({"path": str(folder), **settings})


def test_reads_pixels_labels_and_names(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", FOUR, [0, 1, 1, 0], ["cat", "dog"])
    images = _source(tmp_path)("train")
    assert images.pixels.shape == (4, 3, 12, 12)
    assert np.array_equal(images.pixels[2].permute(1, 2, 0).numpy(), pixels(2))
    assert (images.labels.tolist(), images.classes, images.index.tolist()) == ([0, 1, 1, 0], ("cat", "dog"), [0, 1, 2, 3])
    assert images.name == tmp_path.name


def test_shards_in_a_subfolder_count_rows_on(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00002.parquet", FOUR[:2], [0, 1])
    write(tmp_path / "data" / "train-00001-of-00002.parquet", FOUR[2:], [1, 0])
    images = _source(tmp_path)("train")
    assert images.index.tolist() == [0, 1, 2, 3]
    assert np.array_equal(images.pixels[3].permute(1, 2, 0).numpy(), pixels(3))
    (tmp_path / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(Refused, match=r"has 1 of the 2 files that train-00000-of-00002.parquet announces; fetch the missing"):
        _source(tmp_path)("train")


def test_folder_per_split(tmp_path: Path) -> None:
    write(tmp_path / "train" / "0000.parquet", FOUR, [0, 1, 1, 0])
    assert len(_source(tmp_path)("train")) == 4


@pytest.mark.parametrize("word", ["test", "validation", "valid", "val"])
def test_words_for_test(tmp_path: Path, word: str) -> None:
    write(tmp_path / f"{word}.parquet", FOUR, [0, 1, 1, 0])
    assert len(_source(tmp_path)("test")) == 4


def test_a_test_file_comes_before_a_validation_file(tmp_path: Path) -> None:
    write(tmp_path / "validation.parquet", FOUR, [0, 1, 1, 0])
    write(tmp_path / "test.parquet", FOUR[:2], [0, 1])
    assert len(_source(tmp_path)("test")) == 2


def test_missing_split_names_what_was_looked_for_and_found(tmp_path: Path) -> None:
    write(tmp_path / "val.parquet", FOUR, [0, 1, 1, 0])
    with pytest.raises(Refused, match=r"has no train images: looked for train\*.parquet and found val.parquet; add or rename"):
        _source(tmp_path)("train")
    with pytest.raises(Refused, match=r"'.*nowhere' is not a folder; give a folder with parquet files with --data FOLDER"):
        _source(tmp_path / "nowhere")("train")


@pytest.mark.parametrize("names", [{"image": "img", "label": "fine_label"}, {"image": "picture", "label": "labels"}])
def test_other_column_names(tmp_path: Path, names: dict[str, str]) -> None:
    write(tmp_path / "train.parquet", FOUR, [0, 1, 1, 0], ["cat", "dog"], **names)
    assert _source(tmp_path)("train").classes == ("cat", "dog")


def test_plain_binary_images_beside_a_second_label(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array(FOUR, pa.binary()), "fine_label": [0, 1, 1, 0], "coarse_label": [0, 0, 0, 0]})
    pq.write_table(table, tmp_path / "train.parquet")
    assert _source(tmp_path)("train").labels.tolist() == [0, 1, 1, 0]


def test_unclear_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array(FOUR, pa.binary()), "b": pa.array(FOUR, pa.binary()), "label": [0, 1, 1, 0]}),
                   tmp_path / "train.parquet")  # fmt: skip
    with pytest.raises(Refused, match="has the columns a, b, label, and none of them is plainly the images; name a column"):
        _source(tmp_path)("train")
    pq.write_table(pa.table({"image": pa.array(FOUR, pa.binary()), "label": ["a", "b", "b", "a"]}), tmp_path / "train.parquet")
    with pytest.raises(Refused, match="none of them is plainly the labels; name a column of whole numbers 'label'"):
        _source(tmp_path)("train")


def test_class_names_beside(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", FOUR, [0, 1, 1, 0])
    (tmp_path / "class_names.json").write_text(json.dumps({"fine": ["cat", "dog"], "coarse": ["pet"]}))
    assert _source(tmp_path)("train").classes == ("cat", "dog")
    (tmp_path / "class_names.json").write_text("cat, dog")
    with pytest.raises(Refused, match=r"class_names.json is not JSON .* write a list of class names in label order"):
        _source(tmp_path)("train")
    (tmp_path / "class_names.json").write_text("{}")
    with pytest.raises(Refused, match=r"class_names.json holds no list"):
        _source(tmp_path)("train")


@pytest.mark.parametrize(
    "said", ["{not json", "[]", '{"info": null}', '{"info": {"features": []}}', '{"info": {"features": {"label": 3}}}']
)
def test_a_description_that_describes_nothing_is_no_description(said: str, tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [png(), png()], [0, 1])
    table = pq.read_table(tmp_path / "train.parquet")
    pq.write_table(table.replace_schema_metadata({"huggingface": said}), tmp_path / "train.parquet")
    assert Parquet(path=str(tmp_path))("train").classes == ("0", "1")


def test_without_names_both_splits_have_the_classes_of_either(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", FOUR, [0, 1, 2, 0])
    write(tmp_path / "test.parquet", FOUR, [0, 1, 1, 0])
    assert _source(tmp_path)("test").classes == ("0", "1", "2") == _source(tmp_path)("train").classes


def test_absurd_label_without_names(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", FOUR, [0, 1, 1, 10**9])
    with pytest.raises(Refused, match=r"train.parquet row 3 has the label 1000000000, but the 4 classes end at 3"):
        _source(tmp_path)("train")


def test_bad_entries_are_named_by_file_and_row(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [*FOUR, FOUR[0][:-100], b"x", None], [0, 1, 1, 0, 0, 1, None], ["cat", "dog"])
    with pytest.raises(Refused, match=r"train.parquet row 4 is truncated or corrupt .*, and 2 more of the 7 entries are bad; "):
        _source(tmp_path)("train")
    images = _source(tmp_path, bad="skip")("train")
    assert (len(images), images.skipped) == (4, 3)


def test_mode_is_passed_on(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [*FOUR, png(1, "L")], [0, 1, 1, 0, 1])
    assert len(_source(tmp_path, mode="rgb")("train")) == 5


def test_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    file.write_text("no parquet at all")
    with pytest.raises(Refused, match=r"train.parquet is not a readable parquet file \(.*\); fetch or write it again"):
        _source(tmp_path)("train")
    file.write_bytes(b"")
    with pytest.raises(Refused, match="is not a readable parquet file"):
        _source(tmp_path)("train")
    write(file, FOUR, [0, 1, 1, 0])
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(Refused, match="is not a readable parquet file"):
        _source(tmp_path)("train")
    write(file, [], [])
    with pytest.raises(Refused, match=f"^{tmp_path.name} holds no images"):
        _source(tmp_path)("train")
    write(file, FOUR, [1, 1, 1, 1], ["cat", "dog"])
    with pytest.raises(Refused, match="holds 4 images, all of class 'dog'"):
        _source(tmp_path)("train")


@real
def test_real_cifar10() -> None:
    source = _source(REAL / "cifar10-original-subset")
    train, test = source("train"), source("test")
    assert (train.pixels.shape, test.pixels.shape) == ((5438, 3, 32, 32), (1017, 3, 32, 32))
    assert train.classes[:2] == ("airplane", "automobile")
    assert train.labels.bincount().tolist() == [541, 564, 524, 529, 563, 523, 540, 548, 572, 534]
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]  # the first labels of data_batch_1


@real
def test_real_mnist() -> None:
    test = _source(REAL / "mnist")("test")
    assert test.pixels.shape == (10000, 1, 28, 28)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]


@real
def test_real_tiny_imagenet_has_grey_images() -> None:
    source = _source(REAL / "tiny-imagenet-200")
    with pytest.raises(Refused, match=r"is a grey image where the others are RGB .*, and 167 more of the 10000 entries are bad"):
        source("test")
    images = _source(REAL / "tiny-imagenet-200", mode="rgb")("test")
    assert images.pixels.shape == (10000, 3, 64, 64)
    assert len(images.classes) == 200
