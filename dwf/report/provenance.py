"""Where the numbers come from: images, versions, seeds, settings, and the commands that make them again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

from markupsafe import Markup

from dwf.report.markup import facts, joined, tag
from dwf.report.reading import Evaluated
from dwf.report.wording import count, duration


def provenance(evaluated: Sequence[Evaluated]) -> str | None:
    """One block an evaluation."""
    return joined(map(_block, evaluated))


def command(one: Evaluated) -> str:
    """The command that repeats an evaluation. The evaluation's name carries the settings that differ from the protocol's own."""
    protocol = one.result.protocol
    tag_ = one.name.removeprefix(protocol.name)
    data, where = one.result.dataset, one.result.environment
    named = {key: value for key, value in protocol.settings.items() if re.search(rf"-{re.escape(key)}(?![a-z_])", tag_)}
    parts = ["dwf", "evaluate", str(one.folder), "--protocol", protocol.name]
    parts += [part for key, value in named.items() for part in ("--set", f"protocol.{key}={json.dumps(value)}")]
    parts += ["--samples", str(data.n)] if data.indices != "all" else []
    parts += ["--split", data.split] if data.split != "test" else []
    parts += ["--seed", str(where.seed)] if where.seed else []
    return shlex.join(parts)


def _block(one: Evaluated) -> Markup:
    result, run, where = one.result, one.record["environment"], one.result.environment
    data = result.dataset
    pairs: list[tuple[object, object]] = [
        ("Images", f"{data.name}, {data.split} split, n = {count(data.n)} ({data.indices})"),
        ("Checksum of the data", tag("code", f"sha256 {data.sha256}")),
        ("Trained", f"{one.record.get('started', '?')}, seed {one.record['seed']}, {_versions(run)}"),
        ("Evaluated", f"{where.started}, seed {where.seed}, {_versions(where.model_dump())}, {duration(where.seconds)}"),
        ("Evaluate again", tag("code", command(one))),
    ]
    settings = (("The run", one.record["settings"]), (f"The protocol {result.protocol.name}", result.protocol.settings))
    folded = [
        tag("details", tag("summary", f"{name}: every setting"), tag("pre", json.dumps(value, indent=1, default=str), tabindex="0"))
        for name, value in settings
    ]
    return tag("section", tag("h3", f"{one.run}, {one.name}"), facts(pairs), *folded, class_="run")


def _versions(environment: dict[str, object]) -> str:
    known = {key: environment.get(key, "?") for key in ("dwf", "torch", "device", "threads", "precision")}
    return f"dwf {known['dwf']}, torch {known['torch']}, {known['device']} with {known['threads']} threads, {known['precision']}"
