"""Lengths and fractions, and the sentences that a wrong setting is refused with."""

from fractions import Fraction
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from dwf.core.errors import Refused
from dwf.core.overrides import override
from dwf.core.settings import Length, PixelFraction, Settings, fraction, length, nearest
from dwf.core.types import Spec, Threat


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", 8 / 255),
        ("2.5/255", 2.5 / 255),
        (0.03, 0.03),
        ("0.03", 0.03),
        (" 8 / 255 ", 8 / 255),
        ("0", 0),
        (0, 0),
        ("1e-2", 0.01),
        ("0/255", 0),
    ],
)
def test_a_fraction_is_read(text: object, value: float) -> None:
    assert fraction(text) == value
    assert length(text) == value


@pytest.mark.parametrize(
    "wrong",
    ["abc", "", "/", "8/", "/255", "8/255/2", "8/0", "8/x", "nan", "inf", "1e400", "1e5000000/" + 40 * "2", True, None, [1], {}],
)
def test_what_is_no_number_is_refused(wrong: object) -> None:
    for read in (length, fraction):
        with pytest.raises(ValueError, match=r"^give a number like 0.031 or a fraction like '8/255'$"):
            read(wrong)


@pytest.mark.parametrize("wrong", [-1, -0.01, "-8/255", float("nan"), float("inf"), float("-inf")])
def test_what_is_no_length_is_refused(wrong: object) -> None:
    for read in (length, fraction):
        with pytest.raises(ValueError, match=r"^it must be at least 0 and finite$"):
            read(wrong)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_no_setting_is_without_end(wrong: float) -> None:
    """JSON, in which settings are kept, has no such number."""

    class Rate(Settings):
        rate: float | None = None

    with pytest.raises(Refused, match=rf"'rate' is {wrong}: input should be a finite number"):
        Rate.read({"rate": wrong})


@pytest.mark.parametrize(("wrong", "shown"), [(1.0, "1"), (8, "8"), ("8", "8"), ("510/255", "2"), (2.5, "2.5")])
def test_a_share_of_the_pixel_range_is_below_one(wrong: object, shown: str) -> None:
    with pytest.raises(ValueError, match=f"share of the pixel range and must be below 1; for 8-bit steps write '{shown}/255'$"):
        fraction(wrong)
    assert length(wrong) >= 1


@given(st.fractions(0, 20, max_denominator=10_000))
def test_any_fraction_and_any_decimal_is_read_exactly(value: Fraction) -> None:
    assert length(f"{value.numerator}/{value.denominator}") == float(value)
    assert length(repr(float(value))) == float(value)
    assert length(float(value)) == float(value)


class Small(Settings):
    kind: Literal["small"] = "small"
    size: int = Field(default=1, ge=1)
    eps: PixelFraction = 8 / 255


class Large(Settings):
    kind: Literal["large"] = "large"
    steps: int = 10
    inner: Small = Small()
    threat: Threat = Threat()


class Whole(Settings):
    part: Annotated[Small | Large, Field(discriminator="kind")] = Small()
    parts: tuple[Annotated[Small | Large, Field(discriminator="kind")], ...] = ()
    radius: Length = 0.5
    name: str
    maybe: Small | None = None


SENTENCES = {
    "unknown": (
        {"name": "a", "radios": 1},
        "'radios' is not a setting; did you mean 'radius'? Valid: maybe, name, part, parts, radius",
    ),
    "unknown, nothing like it": ({"name": "a", "zzz": 1}, "'zzz' is not a setting; Valid: maybe, name, part, parts, radius"),
    "unknown in a union": (
        {"name": "a", "part": {"kind": "large", "stepz": 3}},
        "'part.stepz' is not a setting; did you mean 'steps'? Valid: inner, kind, steps, threat",
    ),
    "of the other member": (
        {"name": "a", "part": {"kind": "small", "threat": 3}},
        "'part.threat' is not a setting; Valid: eps, kind, size",
    ),
    "unknown below a union": (
        {"name": "a", "part": {"kind": "large", "inner": {"sise": 3}}},
        "'part.inner.sise' is not a setting; did you mean 'size'? Valid: eps, kind, size",
    ),
    "unknown in a list": (
        {"name": "a", "parts": [{"kind": "small"}, {"kind": "large", "stepps": 3}]},
        "'parts.1.stepps' is not a setting; did you mean 'steps'? Valid: inner, kind, steps, threat",
    ),
    "unknown where None would do": (
        {"name": "a", "maybe": {"sizes": 3}},
        "'maybe.sizes' is not a setting; did you mean 'size'? Valid: eps, kind, size",
    ),
    "wrong type": (
        {"name": "a", "part": {"kind": "large", "steps": "many"}},
        "'part.steps' is 'many': input should be a valid integer",
    ),
    "wrong type of the whole": ([], "'the whole' is []: input should be a valid dictionary or instance of Whole"),
    "wrong range": (
        {"name": "a", "part": {"kind": "small", "size": 0}},
        "'part.size' is 0: input should be greater than or equal to 1",
    ),
    "wrong fraction": (
        {"name": "a", "part": {"kind": "small", "eps": 8}},
        "'part.eps' is 8: it is a share of the pixel range and must be below 1; for 8-bit steps write '8/255'",
    ),
    "wrong length": ({"name": "a", "radius": "far"}, "'radius' is 'far': give a number like 0.031 or a fraction like '8/255'"),
    "wrong choice": (
        {"name": "a", "part": {"kind": "large", "threat": {"norm": "l1"}}},
        "'part.threat.norm' is 'l1': input should be 'linf' or 'l2'",
    ),
    "wrong kind": (
        {"name": "a", "part": {"kind": "lareg"}},
        "'part.kind' is 'lareg', which does not exist; did you mean 'large'? Valid: large, small",
    ),
    "wrong kind, nothing like it": (
        {"name": "a", "part": {"kind": "x"}},
        "'part.kind' is 'x', which does not exist; Valid: large, small",
    ),
    "no kind": ({"name": "a", "part": {"steps": 3}}, "'part' needs a 'kind'"),
    "missing": ({}, "'name' is required and was not given"),
    "across fields": (
        {"name": "a", "part": {"kind": "large", "threat": {"eps": 8}}},
        "for 8-bit steps write '8/255'",
    ),
}


@pytest.mark.parametrize(("data", "sentence"), SENTENCES.values(), ids=SENTENCES.keys())
def test_the_sentence_of_a_refusal(data: object, sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        Whole.read(data, where="my.toml")
    said = str(refused.value)
    assert said.startswith("my.toml: ")
    assert sentence in said
    assert "\n" not in said


def test_a_rule_across_fields_at_the_top_is_said_alone() -> None:
    with pytest.raises(
        Refused, match=r"^settings: it is a share of the pixel range and must be below 1; for 8-bit steps write '8/255'$"
    ):
        Threat.read({"eps": 8})


def test_good_settings_are_read() -> None:
    whole = Whole.read({"name": "a", "part": {"kind": "large", "steps": 3}, "radius": "1/2"})
    assert whole.part == Large(steps=3)
    assert whole.radius == 0.5


def test_settings_are_frozen_and_survive_json() -> None:
    whole = Whole(name="a", part=Large(threat=Threat(eps="3/255")), parts=(Small(), Large(steps=2)))
    assert Whole.model_validate_json(whole.model_dump_json()) == whole
    assert Whole.read(whole.model_dump(mode="json")) == whole
    with pytest.raises(ValidationError, match="frozen"):
        whole.name = "b"


def test_deviations_are_what_differs_from_the_defaults() -> None:
    assert Large().deviations() == {}
    assert Large(steps=3, threat=Threat(eps=0.5)).deviations() == {"steps": 3, "threat": {"eps": 0.5}}
    assert Large.read(Large(steps=3).deviations()) == Large(steps=3)


def test_nearest_always_lists_what_is_valid() -> None:
    assert nearest("pdg", ["pgd", "bim"]) == "did you mean 'pgd'? Valid: bim, pgd"
    assert nearest("autoattack", ["pgd", "bim"]) == "Valid: bim, pgd"


def test_a_threat_reads_its_radius_in_either_notation() -> None:
    assert Threat(eps="8/255") == Threat(eps=8 / 255) == Threat()
    assert Threat(norm="l2", eps=3).eps == 3
    assert Threat(eps=0).eps == 0
    with pytest.raises(ValidationError, match="at least 0 and finite"):
        Threat(norm="l2", eps=-1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ["one"]}, "'classes' is \\['one'\\]: tuple should have at least 2 items"),
        ({"std": [0.0]}, "'std.0' is 0.0: input should be greater than 0"),
        ({"channels": 0}, "'channels' is 0: input should be greater than or equal to 1"),
    ],
)
def test_a_spec_refuses_what_no_images_have(change: dict[str, object], sentence: str) -> None:
    good = {"classes": ["a", "b"], "channels": 1, "height": 8, "width": 8, "mean": [0.5], "std": [0.2]}
    assert Spec.read(good).classes == ("a", "b")
    with pytest.raises(Refused, match=sentence):
        Spec.read({**good, **change})


def test_a_spec_needs_a_mean_and_a_deviation_for_each_channel() -> None:
    with pytest.raises(Refused, match="3 channels need as many means and deviations, not 1 and 3"):
        Spec.read({"classes": ["a", "b"], "channels": 3, "height": 8, "width": 8, "mean": [0.5], "std": [0.2, 0.2, 0.2]})


@pytest.mark.parametrize("turned", [False, True])
def test_another_kind_drops_the_old_settings_and_none_of_the_new(turned: bool) -> None:
    texts = ["method.recipe.epochs=3", "method.kind=trades"]
    data: dict[str, Any] = {"method": {"kind": "dwf", "fgsm": 4}}
    override(data, texts[::-1] if turned else texts)
    assert data == {"method": {"kind": "trades", "recipe": {"epochs": 3}}}
