"""The result file keeps its names, survives the round trip, and refuses what it is not."""

import json
from typing import Any

import pytest

from dwf.core.errors import Refused
from dwf.core.result import SCHEMA, Result, from_json, to_json

SCORE = {"accuracy": 0.5, "ci95": [0.4, 0.6], "n": 100}


def example() -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "run": "runs/a",
        "protocol": {"name": "table3", "settings": {"eps": 0.03, "rows": [1, 2]}},
        "dataset": {"name": "digits", "split": "test", "n": 100, "indices": "all", "sha256": "ab" * 32},
        "model": {
            "method": "dwf",
            "settings": {"backbone": {"kind": "resnet"}},
            "parameters": 1000,
            "forward_passes": 9,
            "overridden": {},
        },
        "clean": SCORE,
        "attacks": [
            {
                **{"name": "pgd-10", "kind": "white", "norm": "linf", "eps": 0.03, "steps": 10, "restarts": 1, "step_size": 0.01},
                **{"space": "pixel", "iterate": "last", "settings": {}, "seconds": 1.5, "forwards": 10.0, "backwards": 10.0},
                **{"precision": "bf16", **SCORE},
            }
        ],
        "worst_case": [{"norm": "linf", "eps": 0.03, "accuracy": 0.4, "ci95": [0.3, 0.5], "attacks": ["pgd-10"], "space": "pixel"}],
        "flags": [{"code": "fgsm_beats_pgd", "class": "trust", "value": 0.02, "cause": "Why.", "remedy": "What to do."}],
        "flag_tests": 4,
        "facts": {"rerouted": {"value": 0.5, "ci95": [0.4, 0.6], "n": 100}},
        "certified": {
            "l2": {"median": 0.1, "largest": 0.2, "radii": [0.2], "shares": [{"value": 0.1, "ci95": [0.05, 0.2], "n": 100}]}
        },
        "routing": {"clean": {"weights": [0.25, 0.75], "entropy": 0.5, "load": [0.0, 1.0], "variation": 0.0}},
        "per_class": [{"class": "zero", "clean": 0.9, "worst_case": 0.4}],
        "environment": {
            **{"dwf": "0.1.0", "code": "f00d", "torch": "2.11", "device": "cpu", "threads": 2, "precision": "bf16", "seed": 0},
            **{"compiled": True, "started": "2026-01-01T00:00:00Z", "seconds": 12.5},
        },
    }


def test_reading_and_writing_are_inverse() -> None:
    result = from_json(example(), where="a.json")
    assert to_json(result) == example()
    assert from_json(json.loads(json.dumps(to_json(result))), where="a.json") == result


def test_a_file_from_before_there_were_facts_is_read() -> None:
    older = {key: value for key, value in example().items() if key not in ("flag_tests", "facts", "certified")}
    del older["worst_case"][0]["space"], older["model"]["overridden"]
    result = from_json(older, where="a.json")
    assert (result.flag_tests, result.facts, result.worst_case[0].space) == (0, {}, "pixel")
    assert (result.certified, result.model.overridden) == ({}, {})


def test_the_file_has_the_names_of_the_format_and_not_those_of_the_language() -> None:
    data = to_json(from_json(example(), where="a.json"))
    assert next(iter(data)) == "schema"
    assert data["flags"][0]["class"] == "trust"
    assert data["per_class"][0]["class"] == "zero"
    text = json.dumps(data)
    assert "schema_" not in text
    assert "class_" not in text


def test_a_model_without_a_gate_has_no_routing() -> None:
    result = from_json({**example(), "routing": None}, where="a.json")
    assert result.routing is None
    assert to_json(result)["routing"] is None


@pytest.mark.parametrize("other", [SCHEMA + 1, 0, "one", None])
def test_another_schema_is_refused(other: object) -> None:
    with pytest.raises(Refused, match=rf"^a\.json has schema {other}, this version reads {SCHEMA}; evaluate the run again$"):
        from_json({**example(), "schema": other}, where="a.json")


@pytest.mark.parametrize("other", [[], {}, {"run": "a"}, "text", None])
def test_what_is_no_result_is_refused(other: object) -> None:
    with pytest.raises(Refused, match=r"^a\.json is not a result file of dwf; evaluate the run again$"):
        from_json(other, where="a.json")


def test_a_damaged_result_is_refused_with_its_place() -> None:
    data = example()
    del data["attacks"][0]["precision"]
    with pytest.raises(Refused, match=r"^a\.json: 'attacks\.0\.precision' is required and was not given$"):
        from_json(data, where="a.json")
    data = example()
    data["flags"][0]["class"] = "other"
    with pytest.raises(Refused, match=r"^a\.json: 'flags\.0\.class_?' is 'other': input should be 'trust' or 'worth'$"):
        from_json(data, where="a.json")


def test_the_schema_of_a_new_result_is_the_present_one() -> None:
    assert Result.model_fields["schema_"].default == SCHEMA
