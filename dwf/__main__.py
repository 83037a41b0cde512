"""python -m dwf, and torchrun -m dwf."""

from dwf.cli import main

main()
