"""The command that all others are part of."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class Commands(TyperGroup):
    """A list of commands that says in full what each does."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = [(name, self.commands[name].get_short_help_str(limit=500)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def commands(help: str, **options: Any) -> typer.Typer:
    """Return an empty group of commands. Its help is plain text: rich takes longer to draw it than all else takes."""
    return typer.Typer(
        cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=help, **options
    )


app = commands(
    "Pathology vision transformers on the edge: export, quantize, and measure what that changed.",
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 passed, 1 a gate failed, 2 could not run. Results go to stdout, everything else to stderr.",
)
