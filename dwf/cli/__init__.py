"""The command line: each verb is thin, and what it does can be done in Python with `dwf.verbs`."""

from __future__ import annotations

import sys

# The order of --help.
# isort: off
from dwf.cli import train, plan, sweep, evaluate, attack, report, about  # noqa: F401

# isort: on
from dwf.cli.shared import app
from dwf.core.errors import Refused

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main() -> None:
    """Runs the command line; bad input ends with one sentence and exit code 2."""
    try:
        app(standalone_mode=True)
    except Refused as refusal:
        sys.stderr.write(f"dwf: {refusal}\n")
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer turns Ctrl-C into this and says nothing
            sys.stderr.write("dwf: interrupted; run the same command again to go on (train, sweep and evaluate: with --resume)\n")
        raise
