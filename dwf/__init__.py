"""Train mixture-of-experts image classifiers that stand up to an adversary, attack them, and report what is left.

In three lines what each verb does:

    from dwf import evaluate, read, train, write_report
    train(read("dwf-digits"), "runs/digits"); evaluate("runs/digits", "table3")
    write_report(["runs/digits"], "report.html")

And for any torch module that you hold:

    from dwf import evaluate_module
    result = evaluate_module(net, data="cifar10", name="mine", mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))
    result.clean, result.worst_case, result.flags
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dwf.report import write as write_report
    from dwf.run import Run, load, read
    from dwf.verbs import attack, evaluate, evaluate_module, plan, sweep, train

_PUBLIC = {
    "Run": "dwf.run",
    "attack": "dwf.verbs",
    "evaluate": "dwf.verbs",
    "evaluate_module": "dwf.verbs",
    "load": "dwf.run",
    "plan": "dwf.verbs",
    "read": "dwf.run",
    "sweep": "dwf.verbs",
    "train": "dwf.verbs",
    "write_report": "dwf.report",
}

__all__ = ["Run", "attack", "evaluate", "evaluate_module", "load", "plan", "read", "sweep", "train", "write_report"]


def __getattr__(name: str) -> Any:
    """Imports on first use: `import dwf` and `dwf --help` need not wait for torch."""
    from importlib import import_module

    if name not in _PUBLIC:
        raise AttributeError(f"module 'dwf' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), {"write_report": "write"}.get(name, name))
