"""The command that all others are part of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .._version import __version__
from ..errors import BadTile

Translate = Callable[[list[str]], list[str]]
"""Turns arguments of an older version into those of this one."""

# Panels of a command's help, in the order they are shown.
MODEL, TILES, RUN, RESULT = "Model", "Tiles", "Run", "Result"
_ORDER = ("Arguments", "Options", MODEL, TILES, RUN, RESULT, "Help")


class Command(TyperCommand):
    """A command whose help shows its options by panel, as plain text; where tiles can be left out, an error says so.

    Its options are read from the signature of `function` when something first asks for them: to read those of all
    commands takes a quarter of the time of `edgepath --help`, which needs none.
    """

    def __init__(self, *, function: Callable[..., Any], **options: Any) -> None:
        super().__init__(**options)
        self._function = function
        del self.params, self.callback  # of the stand-in that typer was given

    def __getattr__(self, name: str) -> Any:
        if name not in ("params", "callback"):
            raise AttributeError(name)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command()(self._function)
        command = typer.main.get_command(alone)
        self.params, self.callback = command.params, command.callback
        return getattr(self, name)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BadTile as error:
            if "skip_bad" not in ctx.params or "--resize" in str(error):  # it says already what to do
                raise
            raise BadTile(f"{error}; --skip-bad leaves such tiles out") from error

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panels.setdefault(panel_of(parameter), []).append(record)
        for name in sorted(panels, key=_ORDER.index):
            with formatter.section(name):
                formatter.write_dl(panels[name])


class Commands(TyperGroup):
    """A group of commands that says in full what each does.

    `default` is the command that is meant where none is named; `translate` accepts older ways of calling the group.
    """

    default = ""
    translate: Translate | None = None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        shown = [name for name in self.list_commands(ctx) if not self.commands[name].hidden]
        rows = [(name, self.commands[name].get_short_help_str(limit=500)) for name in shown]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if self.translate is not None:
            args = type(self).translate(args)  # type: ignore[misc]
        option_first = bool(args) and args[0].startswith("-") and args[0] not in ("-h", "--help")
        return super().parse_args(ctx, [self.default, *args] if self.default and option_first else args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        named = not self.default or args[0] in self.commands
        return super().resolve_command(ctx, args if named else [self.default, *args])


class _Typer(typer.Typer):
    """A typer application whose commands are `Command`s."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        register = super().command

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            def stand_in() -> None: ...

            shown = {"name": name or typer.main.get_command_name(function.__name__), "help": function.__doc__}
            register(**shown, **options, cls=partial(Command, function=function))(stand_in)  # type: ignore[arg-type]
            return function

        return add


def commands(help: str, *, default: str = "", translate: Translate | None = None, **options: Any) -> typer.Typer:
    """Return an empty group of commands. Its help is plain text: rich takes longer to draw it than all else takes."""
    behaviour = {"default": default, "translate": None if translate is None else staticmethod(translate)}
    return _Typer(
        cls=type("Commands", (Commands,), behaviour),
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        help=help,
        **options,
    )


def panel_of(parameter: Any) -> str:
    """Return the panel of the help that a parameter is shown in."""
    if parameter.param_type_name == "argument":
        return "Arguments"
    if "--help" in parameter.opts:
        return "Help"
    return getattr(parameter, "rich_help_panel", None) or "Options"


def deprecated(old: str, new: str) -> None:
    """Say on stderr that a way of calling a command goes, what replaces it, and when."""
    typer.secho(f"{old} is deprecated; use {new} (gone in 0.3)", fg=typer.colors.YELLOW, err=True)


app = commands(
    "Export pathology vision transformers for edge devices, and measure what INT8 or FP16 changed.",
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 passed, 1 a gate failed (with --strict: or is inconclusive), 2 could not run, 70 a bug. "
    "Results go to stdout, everything else to stderr.",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgepath {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
