"""`--set a.b=c`: changes of settings as texts."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

from dwf.core.errors import Refused


def override(data: dict[str, Any], texts: Sequence[str]) -> None:
    """Write each `a.b=c` into nested tables; c is read as TOML where it is TOML, else as plain text.

    Kinds come first, in whatever order they were given: another kind drops the settings of the one before.
    """
    for text in sorted(texts, key=lambda text: text.partition("=")[0].strip().rpartition(".")[2] != "kind"):
        path, equals, value = text.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise Refused(f"--set '{text}' is not of the form a.b=value, such as method.recipe.epochs=3")
        table = data
        for key in keys[:-1]:
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                raise Refused(f"--set '{text}': '{key}' is {inner!r} and not a table; leave out what follows '{key}'")
            table = inner
        new = _value(value.strip())
        if keys[-1] == "kind" and table.get("kind", new) != new:
            table.clear()  # the settings of another kind
        table[keys[-1]] = new


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
