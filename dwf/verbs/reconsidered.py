"""`--set method.a=b` at evaluation: trained weights under settings that may change later, such as the dual model's alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dwf.core.errors import Refused
from dwf.core.overrides import override
from dwf.core.settings import nearest
from dwf.run import Loaded, Run, build
from dwf.training.checkpoint import install

_METHOD = "method."


def of_method(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The texts that change the method, and the others."""
    mine = [text for text in texts if text.strip().startswith(_METHOD)]
    return mine, [text for text in texts if text not in mine]


def reconsidered(loaded: Loaded, texts: Sequence[str], phase: str | None) -> tuple[Loaded, dict[str, Any]]:
    """The same weights under other settings, and what really differs, by path below `method`.

    `phase`: as `loaded` was loaded with. Raises `Refused` for settings that the method's training has fixed (all but those in its
    INFERENCE), for wrong values, and where the weights do not fit the changed model.
    """
    method = loaded.run.method
    free: tuple[str, ...] = getattr(method, "INFERENCE", ())
    paths = [text.partition("=")[0].strip().removeprefix(_METHOD) for text in texts]
    for path in paths:
        if path not in free:
            remedy = nearest(path, list(free)) if free else "leave it out, this method has no setting that can"
            raise Refused(f"'method.{path}' of '{method.kind}' cannot change after training; {remedy}")
    table = loaded.run.model_dump(mode="json")
    override(table, texts)
    run = Run.read(table, where="--set")
    old, new = (one.method.model_dump(mode="json") for one in (loaded.run, run))
    changed = {path: _at(new, path) for path in paths if _at(new, path) != _at(old, path)}
    model = build(run, loaded.spec, next(loaded.model.parameters()).device)
    if phase is not None:
        model = next(one.subject for one in run.method.phases(model) if one.name == phase)
    install(model, loaded.model.state_dict(), loaded.folder.weights)
    return replace(loaded, model=model.eval(), run=run), changed


def _at(table: dict[str, Any], path: str) -> Any:
    value: Any = table
    for key in path.split("."):
        value = value[key]
    return value
