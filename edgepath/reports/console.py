"""What a person sees in a terminal: tables and verdicts on stdout, cautions and progress bars on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .table import Table, words

if TYPE_CHECKING:
    from ..checks.results import Comparison, Debugging, Judged, Report, Verification
    from ..speed.results import Bench


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


def print_report(report: Report) -> None:
    from .tables.drift import fact_table

    say_cautions([*report["cautions"], *report["notes"]])
    print_figures(report)
    print_table(fact_table(report))


def print_verification(result: Verification) -> None:
    say_cautions([*result["cautions"], *result["notes"]])
    if result["tiles"] is not None:
        say_skipped(result["tiles"]["skipped"])
    parts: dict[str, Judged | None] = {"golden tiles": result["golden"], "captured tiles": result["captured"]}
    for name, part in (parts | {"given tiles": result["tiles"]}).items():
        if part is not None:
            print(f"{name} ({result['ran_with']})")
            print_figures(part)


def print_figures(part: Judged | Report) -> None:
    from .tables.drift import drift_table, gate_table

    print_table(drift_table(part["drift"]))
    print_table(gate_table(part["gates"]))


def print_bench(result: Bench) -> None:
    from .tables import speed as tables
    from .tables.drift import gate_table

    say_cautions([*result["cautions"], *result["notes"]])
    for make in (
        tables.latency_table,
        tables.ratio_table,
        tables.stream_table,
        tables.fresh_table,
        tables.device_table,
    ):
        print_table(make(result))
    for name, found in result["operations"].items():
        print(f"{name}: operations at batch {found['batch']}, profiled")
        print_table(tables.operation_table(found))
    print_table(gate_table(result["gates"]))
    if "compared" in result:
        print_table(tables.baseline_table(result["compared"]))
    print(tables.machine_line(result))
    if result["gates"] or "compared" in result:
        print(f"bench: {'passed' if result['passed'] else 'FAILED'}")


def print_comparison(result: Comparison) -> None:
    from .tables.checks import pair_table

    say_cautions([*result["cautions"], *result["notes"]])
    say_skipped(result["skipped"])
    print(f"{result['source']['count']} tiles of {result['source']['name']}")
    print_table(pair_table(result))
    for name, runtime in result["ran_with"].items():
        print(f"{name}: {runtime}")
    print(f"noise floor of the programs themselves: 1 - cosine = {result['noise_floor']:.1e}")


def print_debugging(result: Debugging, shown: int = 12) -> None:
    from .tables.checks import block_table, layer_table

    parts = result["parts"]
    say_cautions(result["cautions"])
    print(f"{result['tiles']['count']} tiles of {result['tiles']['name']}")
    layers = layer_table(result)
    print_table(layers.first(shown))
    if (more := len(layers.rows) - shown) > 0:
        print(f"... and {more} layers less noisy; --json has all")
    print_table(block_table(result))
    for line in parts["differences"]:
        print(f"not the program's: {line}")
    for name in result["unproved"]:
        print(f"{name}: given the program's input, it computes something else (--json has by how much)")
    count = f"{parts['products']} products and {parts['norms']} norms"
    odd = len(parts["differences"]) or "none"
    print(f"{result['name']}: {count}, {odd} of them not as in the program")


def print_robustness(result: Mapping[str, Any]) -> None:
    from .tables.drift import gate_table
    from .tables.quality import GROUPS, robustness_table

    say_cautions([*result["cautions"], *result["notes"]])
    slides = result["slides"]
    print(f"{slides['places']} places on {slides['slides']} slides of {slides['name']}; medians over pairs of slides")
    print_table(robustness_table(result))
    if result["leaderboard"]["artifact"] is not None:
        both = [f"{name} {value:.4f}" for name, value in result["leaderboard"].items()]
        whole = (slides["kind"], slides["slides"], slides["places"]) == ("plism", 91, 8139)
        of = "" if whole else "; PLISM's own is of 91 slides and 8,139 places"
        print(f"PLISM's one number: {', '.join(both)}{of}")
    print_table(gate_table(result["gates"], GROUPS))


def print_curves(result: Mapping[str, Any]) -> None:
    from .tables.quality import curve_table

    say_cautions([*result["cautions"], *result["notes"]])
    say_skipped(result["skipped"])
    print(f"{result['source']['count']} tiles of {result['source']['name']}, at each perturbation's last degree")
    print_table(curve_table(result))


def print_probe(result: Mapping[str, Any]) -> None:
    from .tables.drift import gate_table
    from .tables.quality import PROBES, flip_table, score_table

    say_cautions([*result["cautions"], *result["notes"]])
    say_skipped(result["skipped"])
    classes = ", ".join(f"{count} {name}" for name, count in result["classes"].items())
    apart = f", {result['groups']} groups, each in one fold" if result["groups"] else ""
    source = result["source"]
    print(f"{source['count']} tiles of {source['name']}: {classes}; {result['folds']} folds{apart}")
    print_table(score_table(result))
    print_table(flip_table(result))
    if not result["flips"]:
        print("No prediction changed.")
    print_table(gate_table(result["gates"], PROBES))


def print_genes(result: Mapping[str, Any]) -> None:
    from .tables.drift import gate_table
    from .tables.quality import gene_table, task_table

    say_cautions([*result["cautions"], *result["notes"]])
    source = result["source"]
    print(f"{source['count']} patches of {source['name']}; Pearson's correlation, mean over genes and splits")
    print_table(task_table(result))
    print_table(gene_table(result))
    print_table(gate_table(result["gates"]))


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
