"""The public data sets of the literature, fetched once from the Hugging Face hub and read from its cache ever after."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Literal, NamedTuple

from dwf.core.errors import Refused
from dwf.core.settings import Settings
from dwf.core.types import Images
from dwf.data.decode import Bad, Mode, Split
from dwf.data.parquet import WORDS, find, read


class _Place(NamedTuple):
    """Where the hub keeps a data set."""

    repository: str
    folder: str
    mode: Mode = "auto"


PLACES = {
    "cifar10": _Place("uoft-cs/cifar10", "plain_text"),
    "cifar100": _Place("uoft-cs/cifar100", "cifar100"),
    "mnist": _Place("ylecun/mnist", "mnist"),
    "svhn": _Place("ufldl-stanford/svhn", "cropped_digits"),
    "tiny-imagenet": _Place("zh-plus/tiny-imagenet", "data", mode="rgb"),  # has grey images among the RGB ones
}
"""The data sets that can be given by name."""

_PATIENCE = 5.0  # seconds for the hub's first answer: without a network the user should hear it soon


class Hub(Settings):
    """A data set by name. The cache is the hub's own (`HF_HOME`); downloads resume where they stopped."""

    kind: Literal["hub"] = "hub"
    name: Literal["cifar10", "cifar100", "mnist", "svhn", "tiny-imagenet"]
    offline: bool = False
    """Read the cache only, without asking the hub for news."""
    bad: Bad = "refuse"
    """Bad entries: refuse the data set, or skip and count them."""

    def __call__(self, split: Split) -> Images:
        """Every image of the split; raises `Refused` if it is neither cached nor to be had, and for damaged entries."""
        place = PLACES[self.name]
        root = self._fetched(place, split)
        if not find(root, split):
            raise Refused(self._absent(split, "its copy in the cache is incomplete"))
        return read(root, split, self.name, bad=self.bad, mode=place.mode)

    def _fetched(self, place: _Place, split: Split) -> Path:
        """The cached folder with the split's files; only these are fetched (SVHN has a third split of a gigabyte)."""
        from huggingface_hub import snapshot_download  # here: its client takes half a second that no other data set needs

        wanted = [f"{place.folder}/{word}*.parquet" for group in WORDS[split] for word in group]
        try:
            snapshot = snapshot_download(
                place.repository, repo_type="dataset", allow_patterns=wanted, etag_timeout=_PATIENCE, local_files_only=self.offline
            )
        except Exception as error:  # the hub's client has changed its transport, and with it what it raises
            reason = "it is not in the cache" if self.offline else "the hub could not be reached"
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                reason = "no space is left on the device of its cache"
            raise Refused(self._absent(split, reason)) from error
        return Path(snapshot) / place.folder

    def _absent(self, split: Split, reason: str) -> str:
        return (
            f"data set '{self.name}' ({split}) could not be read from the Hugging Face hub because {reason}; connect and try "
            "again, give a folder with its parquet files with --data FOLDER, or point HF_HOME to a filled cache"
        )
