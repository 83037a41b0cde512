"""Two ranks, of which one refuses and the other waits for it: `refusing.py WHO FOLDER`; each writes down what it was told."""

import sys
from pathlib import Path

import torch

from dwf.core import ranks
from dwf.core.errors import Refused

who, folder = int(sys.argv[1]), Path(sys.argv[2])
number = 0
try:
    with ranks.together(torch.device("cpu")):
        number = ranks.rank()
        if number == who:
            raise Refused(f"rank {who} says no")
        ranks.barrier()
except Refused as refusal:
    (folder / str(number)).write_text(str(refusal))
