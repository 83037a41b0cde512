"""Small encoded images and parquet files for the tests of the readers."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dwf.core.types import Images
from dwf.data.decode import assemble

REAL = Path(__file__).parents[3] / "shared" / "data"


def pixels(seed: int, mode: str = "RGB", size: tuple[int, int] = (12, 12)) -> np.ndarray:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (12, 12), form: str = "PNG") -> bytes:
    image = Image.fromarray(pixels(seed, "L" if mode in ("L", "LA", "P") else "RGB", size)).convert(mode)
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def deep_png(size: tuple[int, int] = (12, 12)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full(size, 40000, np.uint16)).save(file, "PNG")
    return file.getvalue()


def write(file: Path, images: list[bytes | None], labels: list[int | None], names: list[str] | None = None, **columns: str) -> None:
    """A parquet file as the hub serves it; `columns` renames `image` and `label`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image, label = columns.get("image", "image"), columns.get("label", "label")
    structs = pa.array([{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(images)],
                       pa.struct({"bytes": pa.binary(), "path": pa.string()}))  # fmt: skip
    table = pa.table({image: structs, label: pa.array(labels, pa.int64())})
    if names is not None:
        quoted = ", ".join(f'"{name}"' for name in names)
        info = f'{{"info": {{"features": {{"{label}": {{"names": [{quoted}], "_type": "ClassLabel"}}}}}}}}'
        table = table.replace_schema_metadata({"huggingface": info})
    pq.write_table(table, file)


def made(count: int, classes: int = 2, size: int = 8, channels: int = 3) -> Images:
    """Random images in memory; `index` is not the position."""
    random = np.random.default_rng(count)
    labels = np.arange(count, dtype=np.int64) % classes
    index = 1000 + 3 * np.arange(count, dtype=np.int64)
    names = [f"c{i}" for i in range(classes)]
    return assemble(random.integers(0, 256, (count, size, size, channels), np.uint8), labels, index, names, "made")
