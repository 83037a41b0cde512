"""Where the numbers come from: images, versions, seeds, settings, and the commands that make them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from dwf.core.wording import count, duration, place
from dwf.report.commands import command
from dwf.report.markup import blocks, facts, joined, tag
from dwf.report.reading import Evaluated


def provenance(evaluated: Sequence[Evaluated]) -> str | None:
    """One block an evaluation."""
    return blocks([(f"{one.run}, {one.name}", _block(one)) for one in evaluated])


def _block(one: Evaluated) -> Markup:
    result, where = one.result, one.result.environment
    data, about = result.dataset, one.foreign
    pairs: list[tuple[object, object]] = [
        ("Images", f"{data.name}, {data.split} split, n = {count(data.n)} ({data.indices})"),
        ("Checksum of the data", tag("code", f"sha256 {data.sha256}")),
        *(_trained(one) if about is None else _foreign(about)),
        *_overridden(one),
        (
            "Evaluated",
            f"{where.started}, seed {where.seed}, {_versions(where.model_dump())}, "
            f"{duration(where.seconds)} by the clock of the process that finished it",
        ),
        ("Evaluate again", tag("code", command(one))),
    ]
    settings = ((_owner(about), one.record["settings"]), (f"The protocol {result.protocol.name}", result.protocol.settings))
    folded = [
        tag("details", tag("summary", f"{name}: every setting"), tag("pre", json.dumps(value, indent=1, default=str), tabindex="0"))
        for name, value in settings
    ]
    return joined([facts(pairs), *folded])


def _owner(about: Mapping[str, Any] | None) -> str:
    return "The run" if about is None else "The model"


def _trained(one: Evaluated) -> list[tuple[object, object]]:
    run = one.record["environment"]
    return [("Trained", f"{one.record.get('started', '?')}, seed {one.record['seed']}, {_versions(run)}")]


def _overridden(one: Evaluated) -> list[tuple[object, object]]:
    """What the evaluation changed after training; the settings of the run below are those of its training."""
    changed = [f"method.{key} = {value}" for key, value in one.result.model.overridden.items()]
    return [("Changed after training", ", ".join(changed))] if changed else []


def _foreign(about: Mapping[str, Any]) -> list[tuple[object, object]]:
    """What is known of a model that came from elsewhere: how it was trained is not."""
    given = f"standardised by mean {about['mean']} and std {about['std']}" if about.get("mean") else "as pixels in [0, 1]"
    outputs = str(about.get("outputs", "?"))
    if outputs == "probabilities":
        outputs += ", attacked through their logarithm, which makes attacks that follow its gradient weaker than they could be"
    weights = f", weights {about['weights']}" if about.get("weights") else ""
    return [
        ("Trained", "not here: how this model was trained is not known"),
        ("The model", joined([tag("code", str(about.get("model", "?"))), f"{weights}; it takes its images {given}"])),
        ("Its outputs", outputs),
        ("Fingerprint of its weights", tag("code", f"sha256 {about.get('fingerprint', '?')}")),
    ]


def _versions(environment: Mapping[str, object]) -> str:
    code = f" (code {str(environment['code'])[:8]})" if environment.get("code") else ""
    return f"dwf {environment.get('dwf', '?')}{code}, torch {environment.get('torch', '?')}, {place(environment)}"
