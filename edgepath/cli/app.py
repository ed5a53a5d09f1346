"""The command that all others are part of."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Pathology vision transformers on the edge: export, quantize, and measure what that changed.",
    epilog="Exit codes: 0 passed, 1 a gate failed, 2 could not run. Results go to stdout, everything else to stderr.",
)
