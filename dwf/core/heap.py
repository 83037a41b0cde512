"""The memory of this process, as its operating system sees it."""

from __future__ import annotations

import ctypes
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of `mallopt` in the GNU C library."""
USUAL = 32 * 2**20
"""Up to this size the library keeps freed blocks for the next ones, once it has seen some."""
SMALL = 2**20
"""Up to this size it does so even when memory is to be given back."""
NEVER = 2**31 - 1
"""Free memory, in bytes, that makes the library return some: more than the field can hold."""


def keep() -> bool:
    """Freed blocks stay with the process; False where nobody can be told.

    A step frees what it computed, and the library would return much of it to the system, which hands it out again page by page,
    each wiped first: a tenth of a training step. What a process holds is then the most that it has used.
    """
    return _told(USUAL, NEVER)


def give_back(*, at_once: bool) -> bool:
    """Whether freed blocks above `SMALL` leave the process at once, or those above `USUAL` only; False where nobody can be told.

    Kept blocks are faster, but those of one moment rarely fit the next, so that a process holds more than it uses.
    """
    return _told(SMALL, 2 * SMALL, now=True) if at_once else _told(USUAL, 2 * USUAL)


def _told(limit: int, free: int, *, now: bool = False) -> bool:
    """Blocks above `limit` bytes leave when they are freed, and smaller ones once `free` bytes are."""
    try:
        library = ctypes.CDLL(None)
        told = [library.mallopt(_MMAP_THRESHOLD, limit), library.mallopt(_TRIM_THRESHOLD, free)]
        if now:
            library.malloc_trim(0)
    except (AttributeError, OSError):  # another C library
        return False
    return all(told)


def held() -> int | None:
    """Bytes of memory that this process holds; None where Linux is not there to ask."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), None)
