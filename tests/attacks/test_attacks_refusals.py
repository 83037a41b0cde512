"""Images, labels and radii that every attack refuses in one sentence. A new member of ATTACKS is tested by being listed."""

import pytest
import torch
import torch.nn.functional as F
from attacked_nets import CLASSES, build, images, net
from pydantic import ValidationError
from torch import Tensor

from dwf.attacks import ATTACKS
from dwf.core.errors import Refused
from dwf.core.seeds import Noise
from dwf.core.types import Threat

NOISE = Noise(3, torch.tensor([11, 5, 7, 400, 0, 2]))
X, Y = images()
BAD_IMAGES = {
    "nan": (X.clone().index_fill_(0, torch.tensor([2]), torch.nan), r"images reach from nan to nan, an attack needs \[0, 1\]"),
    "above": (X * 2, r"images reach from 0 to 2, an attack needs \[0, 1\]; put mean and standard deviation inside the model"),
    "below": (X - 0.5, r"images reach from -0.5 to 0.5, an attack needs \[0, 1\]"),
    "bytes": (
        (X * 255).byte(),
        r"\(6, 3, 8, 8\) torch.uint8, an attack needs \(B, C, H, W\) float32 in \[0, 1\]; divide bytes by 255",
    ),
    "half": (X.bfloat16(), "bfloat16, an attack needs .* give half numbers as float32"),
    "flat": (X.flatten(1), r"images are \(6, 192\) torch.float32, an attack needs \(B, C, H, W\) float32"),
    "one image": (X[0], r"images are \(3, 8, 8\) torch.float32, an attack needs \(B, C, H, W\) float32"),
}
BAD_LABELS = {
    "too few": (Y[:4], r"are \(4,\) torch.int64, an attack on 6 images needs \(6,\) int64"),
    "one-hot": (F.one_hot(Y, CLASSES), r"are \(6, 5\) torch.int64, an attack on 6 images needs \(6,\) int64"),
    "floats": (Y.float(), r"are \(6,\) torch.float32, an attack on 6 images needs \(6,\) int64"),
    "int32": (Y.int(), r"are \(6,\) torch.int32, an attack on 6 images needs \(6,\) int64"),
    "negative": (Y - 10, "go down to -10, but classes are counted from 0; shift or filter them"),
}


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize(("x", "sentence"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_refuses_bad_images(kind: str, x: Tensor, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        build(kind, Threat())(net(), x, Y, NOISE)


@pytest.mark.parametrize("kind", ATTACKS)
def test_refuses_what_forbids_gradients(kind: str) -> None:
    attack, sentence = build(kind, Threat()), "torch.inference_mode forbids the gradients that an attack follows"
    with torch.inference_mode():
        made = X.clone()
        with pytest.raises(Refused, match=sentence):
            attack(net(), X, Y, NOISE)
    with pytest.raises(Refused, match=sentence):
        attack(net(), made, Y, NOISE)


@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize(("y", "sentence"), BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_refuses_bad_labels_and_targets(kind: str, y: Tensor, sentence: str) -> None:
    attack = build(kind, Threat())
    with pytest.raises(Refused, match="labels " + sentence):
        attack(net(), X, y, NOISE)
    with pytest.raises(Refused, match="targets " + sentence):
        attack(net(), X, Y, NOISE, y)


@pytest.mark.parametrize("kind", ATTACKS)
def test_refuses_a_radius_in_8_bit_steps(kind: str) -> None:
    with pytest.raises(Refused, match="must be below 1; for 8-bit steps write '8/255'"):
        ATTACKS[kind].read({"threat": {"eps": 8}})
    with pytest.raises(ValidationError, match="must be below 1; for 8-bit steps write '1/255'"):
        ATTACKS[kind](threat=Threat(eps=1))
    assert ATTACKS[kind].read({"threat": {"norm": "l2", "eps": 8}}).threat.eps == 8
