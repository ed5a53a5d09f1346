"""What a person sees in a terminal: tables and verdicts on stdout, cautions and progress bars on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from .table import Table, words


@contextmanager
def progress_bars() -> Iterator[Any]:
    """Yield `progress(stage, done, total)`, which draws one bar a stage on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), *times)
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield progress


def print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))


def print_table(shown: Table) -> None:
    """Print a table, unless it has no rows."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column
    from rich.table import Table as Drawn
    from rich.text import Text

    if not shown:
        return
    columns = [Column(name, overflow="fold") for name in shown.header]
    drawn = Drawn(*columns, box=SIMPLE_HEAD, show_header=any(shown.header), header_style="bold", padding=(0, 1, 0, 0))
    for row in shown.rows:
        drawn.add_row(*(Text(words(cell)) for cell in row))  # Text: `edgepath[openvino]` is no markup
    Console().print(drawn)


def print_report(report: Mapping[str, Any]) -> None:
    from .tables.drift import fact_table

    say_cautions([*report["cautions"], *report["notes"]])
    print_figures(report)
    print_table(fact_table(report))


def print_verification(result: Mapping[str, Any]) -> None:
    say_cautions([*result["cautions"], *result["notes"]])
    parts = {"golden tiles": result["golden"], "captured tiles": result["captured"], "given tiles": result["tiles"]}
    for name, part in parts.items():
        if part is not None:
            say_skipped(part.get("skipped", ()))
            print(f"{name} ({result['ran_with']})")
            print_figures(part)


def print_figures(part: Mapping[str, Any]) -> None:
    from .tables.drift import drift_table, gate_table

    print_table(drift_table(part["drift"]))
    print_table(gate_table(part["gates"]))


def print_pack(info: Any, as_json: bool) -> None:
    if as_json:
        print_json(info.to_json())
    else:
        for bad in (bad for source in info.sources for bad in source.get("skipped", ())):
            typer.echo(f"skipped {bad}", err=True)
        print(f"{info.path}: {info.count} tiles, seed {info.seed}, sha256 {info.sha256[:16]}")


def say_cautions(cautions: list[str]) -> None:
    for caution in cautions:
        typer.secho(caution, fg=typer.colors.YELLOW, err=True)


def say_skipped(skipped: Iterable[Sequence[str]]) -> None:
    """Name the tiles that were left out, and why."""
    for key, reason in skipped:
        typer.echo(f"skipped {key}: {reason}", err=True)


def verdict(passed: bool) -> str:
    return "passed" if passed else "FAILED (a gate was missed)"


@contextmanager
def say_how_to_go_on(state: Path, how: str) -> Iterator[None]:
    """Where Ctrl-C leaves a file that work can go on from, say so."""
    try:
        yield
    except KeyboardInterrupt:
        if state.is_file():
            typer.echo(f"edgepath: stopped; go on with {how}, from {state}", err=True)
        raise
