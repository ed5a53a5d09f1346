"""`python -m edgepath`, and `torchrun -m edgepath`."""

from .cli import main

main()
