"""The command line: parse, call, print. Results go to stdout, talk and progress to stderr.

    making      weights to bundles, tiles to packs, teachers to students
    searching   a budget to a recipe
    checking    is the artifact what it should be
    robust      does it see what the model sees: stains, scanners, tasks
    speed       how fast is it
    listing     what there is
    options     what several commands have

Exit codes: 0 passed, 1 a gate failed, 2 could not run.
"""

from __future__ import annotations

import signal
import sys

import typer

from ..errors import EdgepathError
from . import checking, listing, making, robust, searching, speed
from .app import app as app

# In the order of --help.
making.add(app)
searching.add(app)
checking.add(app)
robust.add(app)
speed.add(app)
listing.add(app)


def main() -> None:
    """Entry point: errors a user can cause are one line and exit code 2; a bug keeps its traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except EdgepathError as error:
        typer.echo(f"edgepath: {error}", err=True)
        sys.exit(2)
