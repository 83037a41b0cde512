"""What the command line does, in Python: each verb one call, one file a verb."""

from dwf.verbs.attack import attack
from dwf.verbs.evaluate import evaluate
from dwf.verbs.foreign import evaluate_module
from dwf.verbs.plan import plan
from dwf.verbs.sweep import sweep
from dwf.verbs.train import train

__all__ = ["attack", "evaluate", "evaluate_module", "plan", "sweep", "train"]
