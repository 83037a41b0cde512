"""The commands that make a result again, or make one that is missing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from dwf.report.reading import Evaluated

_HASHED = re.compile(r"-[0-9a-f]{12}$")
"""A tag of many settings, shortened by the evaluation."""


def command(one: Evaluated) -> str:
    """The command that repeats an evaluation. The evaluation's name carries the settings that differ from the protocol's own."""
    protocol = one.result.protocol
    data, where = one.result.dataset, one.result.environment
    named = protocol.settings
    if not _HASHED.fullmatch(tag := one.name.partition("@")[0].removeprefix(protocol.name)):
        named = {key: value for key, value in named.items() if re.search(rf"-{re.escape(key)}(?![a-z_])", tag)}
    given = {key: value for key, value in named.items() if key != "kind" and value is not None}
    parts = [*_subject(one), "--protocol", protocol.name]
    parts += [part for key, value in given.items() for part in ("--set", f"protocol.{key}={json.dumps(value)}")]
    parts += [f"--set=method.{key}={json.dumps(value)}" for key, value in one.result.model.overridden.items()]
    parts += ["--samples", str(data.n)] if data.indices != "all" else []
    parts += ["--split", data.split] if data.split != "test" else []
    parts += [part for name in _surrogates(one) for part in ("--surrogate", f"FOLDER-OF-{name}")]
    parts += ["--seed", str(where.seed)] if where.seed else []
    return shlex.join(parts)


def ask(one: Evaluated, protocol: str) -> str:
    """The command that evaluates the same model by another protocol, on all images."""
    return shlex.join([*_subject(one), "--protocol", protocol])


def _subject(one: Evaluated) -> list[str]:
    about = one.foreign
    if about is None:
        return ["dwf", "evaluate", str(one.folder)]
    parts = ["dwf", "evaluate", "--model", str(about.get("model", "MODEL")), "--data", _data(one.record["settings"])]
    parts += ["--out", str(one.folder)]
    parts += ["--weights", str(about["weights"])] if about.get("weights") else []
    for key in ("mean", "std"):
        parts += [f"--{key}", ",".join(map(str, about[key]))] if about.get(key) else []
    return parts


def _data(settings: Mapping[str, Any]) -> str:
    """Its folder, its name, or what it is."""
    source = (settings.get("data") or {}).get("source") or {}
    return str(source.get("path") or source.get("name") or source.get("kind") or "DATA")


def _surrogates(one: Evaluated) -> list[str]:
    """Names of the runs that images were transferred from."""
    views = [entry.settings.get("view") or {} for entry in one.result.attacks]
    return list(dict.fromkeys(str(view["name"]) for view in views if view.get("kind") == "Another"))
