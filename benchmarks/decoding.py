"""How many JPEGs of ImageNet's usual size the project's reader decodes, scales to 224 pixels and keeps in a second, by core.

500 x 375 pixels of smooth noise at quality 90, near the 110 KB of ImageNet's average file: what docs/scale.md computes with.
"""

from __future__ import annotations

import io
import os

import numpy as np
from harness import alternate, arguments, publish, spread
from PIL import Image

from dwf.data.decode import Entry, decode

WIDTH, HEIGHT, SIZE, QUALITY = 500, 375, 224, 90


def photograph(seed: int) -> bytes:
    """A JPEG with coarse and fine structure."""
    random = np.random.default_rng(seed)
    layers = []
    for scale, strength in ((64, 90), (16, 50), (4, 30), (1, 22)):
        small = random.normal(0, strength, (HEIGHT // scale + 1, WIDTH // scale + 1, 3))
        layers.append(small.repeat(scale, 0).repeat(scale, 1)[:HEIGHT, :WIDTH])
    file = io.BytesIO()
    Image.fromarray((128 + sum(layers)).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def main() -> None:
    """Measure and publish."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    chosen = parser.parse_args()
    count = 40 if chosen.quick else chosen.images
    files = [photograph(seed) for seed in range(20)]
    entries = [Entry(f"{number}.jpg", files[number % len(files)], number % 2) for number in range(count)]
    seconds = alternate({"": lambda: decode(entries, ["a", "b"], "made", bad="refuse", mode="rgb", size=SIZE)}, 3)[""]
    rate, cores = count / spread(seconds)["median"], len(os.sched_getaffinity(0))
    figures = {"settings": {"width": WIDTH, "height": HEIGHT, "size": SIZE, "kilobytes": sum(map(len, files)) / len(files) / 1000}}
    publish("decoding", {**figures, "cores": cores, "images_per_second": rate, "of_a_core": rate / cores}, chosen.json)


if __name__ == "__main__":
    main()
