"""What the process does with freed memory, asked of the system: pages that a repeated computation has to be given anew."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dwf.core import heap

PROGRAM = """
import resource, sys, torch
from dwf.core import heap
told = {"keep": heap.keep, "at once": lambda: heap.give_back(at_once=True)}[sys.argv[1]]()

def step():
    blocks = [torch.ones(3 * 2**18) for _ in range(40)]  # 3 MiB each

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 5 * 40 * 3 * 2**20 // 4096
"""Of five steps."""


def faults(mode: str) -> int:
    said = subprocess.run([sys.executable, "-c", PROGRAM, mode], check=True, capture_output=True, text=True).stdout.split()
    if said[0] != "True":
        pytest.skip("this C library cannot be told what to do with freed memory")
    return int(said[1])


def test_kept_memory_is_not_asked_for_again() -> None:
    assert faults("keep") < PAGES / 100


def test_memory_that_is_given_back_is() -> None:
    assert faults("at once") > PAGES / 2
    assert heap.USUAL > heap.SMALL
