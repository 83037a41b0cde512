"""Where an evaluation's images come from: the run's own data set, another place, and how its files are read."""

from __future__ import annotations

from collections.abc import Sequence

from dwf.core.overrides import override
from dwf.data import Data
from dwf.run import source_table

_SOURCE = "data.source."


def of_source(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The texts that say how images are read, such as `data.source.bad=skip`, and the others."""
    mine = [text for text in texts if text.strip().startswith(_SOURCE)]
    return mine, [text for text in texts if text not in mine]


def sourced(own: Data | None, place: str | None, texts: Sequence[str]) -> Data:
    """`own` data settings with their images from `place` (a name or a folder; None: where they are), read as `texts` say.

    Raises `Refused` for what is not there and settings that do not fit.
    """
    table = {} if own is None else own.model_dump(mode="json")
    if place is not None:
        table["source"] = source_table(place)
    whole = {"data": table}
    override(whole, texts)
    return Data.read(whole["data"], where="--data")
