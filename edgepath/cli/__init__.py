"""The command line: parse, call, print. Results go to stdout, talk and progress to stderr.

    making      weights to bundles, tiles to packs, teachers to students
    slides      whole slides to embeddings
    searching   a budget to a recipe
    checking    is the artifact what it should be
    robust      does it see what the model sees: stains, scanners, tasks
    speed       how fast is it
    listing     what there is
    options     what several commands have
    streams     stdout and stderr that are closed or full

Exit codes: 0 passed, 1 a gate failed, or with --strict is inconclusive, 2 could not run, 70 a bug of edgepath's.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import traceback
import warnings
from typing import NoReturn

import typer

from ..errors import EdgepathError, one_line, printable
from ..machine.garbage import spare_old_objects
from . import checking, listing, making, robust, searching, slides, speed
from .app import app as app
from .streams import robust_streams, stdout_fails

SOFTWARE = 70
"""The exit code of a bug, as sysexits.h has it (EX_SOFTWARE)."""

# In the order of --help.
making.add(app)
slides.add(app)
searching.add(app)
checking.add(app)
robust.add(app)
speed.add(app)
listing.add(app)


class _Said(logging.Handler):
    """What the library warns of, as of files that are no tiles, goes where cautions go."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.secho(printable(record.getMessage()), fg=typer.colors.YELLOW, err=True)


def main() -> None:
    """Entry point: errors a user can cause are one line and exit code 2; a bug keeps its traceback, and ends with 70.

    Python's own code for a traceback is 1, which would read as a failed gate.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    spare_old_objects()
    with robust_streams():
        _run()


def _run() -> None:
    logger, handler = logging.getLogger("edgepath"), _Said(logging.WARNING)
    logger.addHandler(handler)
    warnings.filterwarnings("ignore", module="PIL")  # what it makes of a damaged file, readers say in one line
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may have letters that the terminal does not
    stdout = sys.stdout
    try:
        try:
            app()
        except SystemExit:
            if sys.stdout is not stdout:  # typer's way to say that nobody reads it any more, with code 1
                sys.exit(2)
            raise
        finally:
            sys.stdout.flush()  # here, where it can be said that it fails
    except EdgepathError as error:
        typer.echo(f"edgepath: {one_line(error)}", err=True)
        sys.exit(2)
    except OSError as error:
        if _folder_is_gone():
            typer.echo("edgepath: the working directory is not there any more; change to one that is", err=True)
            sys.exit(2)
        if not stdout_fails():
            _bug()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try again when it ends
        done = "files that the command wrote are there, its result was not shown"
        if not isinstance(error, BrokenPipeError):  # whoever reads it has seen enough
            typer.echo(f"edgepath: stdout cannot be written ({error.strerror}); {done}", err=True)
        sys.exit(2)
    except Exception:
        _bug()
    finally:
        logger.removeHandler(handler)


def _bug() -> NoReturn:
    traceback.print_exc()
    sys.exit(SOFTWARE)


def _folder_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
