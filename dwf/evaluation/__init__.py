"""Measuring robustness so that the number can be believed."""

from dwf.core.settings import Settings
from dwf.evaluation.table3 import Table3

PROTOCOLS: dict[str, type[Settings]] = {
    "table3": Table3,
}

AnyTable = Table3
"""Settings of any member of PROTOCOLS."""

__all__ = ["PROTOCOLS", "AnyTable", "Table3"]
