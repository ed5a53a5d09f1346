"""What a person sees in a terminal: tables and verdicts on stdout, cautions and progress bars on stderr."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from ..checks.verdicts import Verdict
from ..errors import printable
from .table import Table, words

if TYPE_CHECKING:
    from ..checks.results import Comparison, Debugging, GateRow, Judged, NetworkFigures, Report, Verification
    from ..quality.results import Curves, Genes, Probed, Robustness
    from ..slides.results import SlidesResult
    from ..speed.results import Bench, Held


_Result = TypeVar("_Result", bound=Mapping[str, object])
_SECONDS_A_LINE = 60.0  # of progress in a log


@contextmanager
def progress_bars() -> Iterator[Any]:
    """Yield `progress(stage, done, total)`, which draws one bar a stage on stderr; lines where that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    times = (Rate(), TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), *times)
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _progress_lines()
        return
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield progress


def _progress_lines() -> Callable[[str, int, int], None]:
    """Return progress as lines, as a log wants it: each stage as it begins, and how far it is once a minute."""
    last: dict[str, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - last.get(stage, -_SECONDS_A_LINE) >= _SECONDS_A_LINE:
            say(f"{stage} {done}/{total}", err=True)
            last[stage] = now

    return progress


def print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))


def say(text: str, *, err: bool = False) -> None:
    """Print one line; names in it, of files and in them, cannot steer the terminal."""
    print(printable(text), file=sys.stderr if err else sys.stdout)


def print_result(result: _Result, show: Callable[[_Result], None], as_json: bool) -> None:
    """Print a result as JSON, or as `show` does."""
    (print_json if as_json else show)(result)


def print_table(shown: Table) -> None:
    """Print a table, unless it has no rows."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column
    from rich.table import Table as Drawn
    from rich.text import Text

    if not shown:
        return
    console = Console()
    tight = _column_widths(shown, console.width - 3 * len(shown.header) - 1) is None  # of spaces between columns
    between = len(shown.header) if tight else 2 * len(shown.header) + 1  # spaces, and the edges of a loose table
    widths = _column_widths(shown, console.width - between)
    columns = [
        Column(name, overflow="fold", width=widths[number] if widths else None)
        for number, name in enumerate(shown.header)
    ]
    drawn = Drawn(
        *columns,
        box=SIMPLE_HEAD,
        show_header=any(shown.header),
        show_edge=not tight,
        header_style="bold",
        padding=(0, 0 if tight else 1, 0, 0),
    )
    for row in shown.rows:
        drawn.add_row(*(Text(printable(words(cell))) for cell in row))  # Text: `edgepath[openvino]` is no markup
    console.print(drawn)


def _column_widths(shown: Table, room: int) -> list[int] | None:
    """Return how wide each column is, so that no word is broken; None where that takes more than `room`."""
    columns = [[printable(words(cell)) for cell in column] for column in zip(shown.header, *shown.rows, strict=True)]
    least = [max((len(word) for cell in column for word in cell.split()), default=1) for column in columns]
    if sum(least) > room:
        return None
    widths = [max(map(len, column)) for column in columns]
    while sum(widths) > room:
        slack = [width - few for width, few in zip(widths, least, strict=True)]
        widths[slack.index(max(slack))] -= 1
    return widths


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
            say(f"{name} ({result['ran_with']})")
            print_figures(part)


def print_figures(part: Judged | Report) -> None:
    from .tables.drift import drift_table, gate_table

    print_table(drift_table(part["drift"]))
    print_table(gate_table(part["gates"]))


def print_bench(result: Bench, strict: bool = False) -> None:
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
    for name, operations in result["operations"].items():
        say(f"{name}: operations at batch {operations['batch']}, profiled")
        print_table(tables.operation_table(operations))
    print_table(gate_table(result["gates"]))
    if "compared" in result:
        print_table(tables.baseline_table(result["compared"]))
    say(tables.machine_line(result))
    held = [*result["gates"], *(result["compared"]["rows"] if "compared" in result else ())]
    if held:
        say(f"bench: {verdict(held, strict)}")


def print_comparison(result: Comparison) -> None:
    from .tables.checks import pair_table

    say_cautions([*result["cautions"], *result["notes"]])
    say_skipped(result["skipped"])
    say(f"{result['source']['count']} tiles of {result['source']['name']}")
    print_table(pair_table(result))
    for name, runtime in result["ran_with"].items():
        say(f"{name}: {runtime}")
    say(f"noise floor of the programs themselves: 1 - cosine = {result['noise_floor']:.1e}")


def print_debugging(result: Debugging, shown: int = 12) -> None:
    from .tables.checks import block_table, layer_table

    parts = result["parts"]
    say_cautions(result["cautions"])
    say(f"{result['tiles']['count']} tiles of {result['tiles']['name']}")
    layers = layer_table(result)
    print_table(layers.first(shown))
    if (more := len(layers.rows) - shown) > 0:
        say(f"... and {more} layers less noisy; --json has all")
    print_table(block_table(result))
    for line in parts["differences"]:
        say(f"not the program's: {line}")
    for name in result["unproved"]:
        say(f"{name}: given the program's input, it computes something else (--json has by how much)")
    if (network := result["network"]) is not None:
        say(network_line(network))
    count = f"{parts['products']} linear layers and {parts['norms']} norms"
    odd = len(parts["differences"]) or "none"
    say(f"{result['name']}: {count}, {odd} of them not as in the program")


def network_line(network: NetworkFigures) -> str:
    """Say what TensorRT's front end made of an artifact."""
    kind = "FP8" if network["fp8"] else "INT8"
    linears = f"{network['fp8'] or network['int8']} linear layers in {kind}, {network['float']} in floating point"
    if network["differ"]:
        linears += f"; {network['differ']} of the program's are not in it"
    mean = network["cosine_mean"]
    what = "an embedding is not finite" if mean is None else f"1 - cosine to the program {1 - mean:.1e}"
    return f"TensorRT's network, computed here: {linears}; {what} ({network['tiles']} tiles)"


def print_robustness(result: Robustness) -> None:
    from .tables.drift import gate_table
    from .tables.quality import JUDGED, robustness_table

    say_cautions([*result["cautions"], *result["notes"]])
    slides = result["slides"]
    say(f"{slides['places']} locations on {slides['slides']} slides of {slides['name']}; medians over pairs of slides")
    print_table(robustness_table(result))
    if result["leaderboard"]["artifact"] is not None:
        both = [f"{name} {value:.4f}" for name, value in result["leaderboard"].items()]
        complete = (slides["kind"], slides["slides"], slides["places"]) == ("plism", 91, 8139)
        of = "" if complete else "; PLISM's own is of 91 slides and 8,139 locations"
        say(f"PLISM's one number: {', '.join(both)}{of}")
    print_table(gate_table(result["gates"], JUDGED))


def print_curves(result: Curves) -> None:
    from .tables.quality import curve_table

    say_cautions([*result["cautions"], *result["notes"]])
    say_skipped(result["skipped"])
    say(f"{result['source']['count']} tiles of {result['source']['name']}, at each perturbation's strongest step")
    print_table(curve_table(result))


def print_probe(result: Probed | Genes) -> None:
    if result["kind"] == "genes":
        _print_genes(result)
        return
    from .tables.drift import gate_table
    from .tables.quality import PROBES, flip_table, score_table

    say_cautions([*result["cautions"], *result["notes"]])
    say_skipped(result["skipped"])
    classes = ", ".join(f"{count} {name}" for name, count in result["classes"].items())
    apart = f", {result['groups']} groups, each in one fold" if result["groups"] else ""
    source = result["source"]
    say(f"{source['count']} tiles of {source['name']}: {classes}; {result['folds']} folds{apart}")
    print_table(score_table(result))
    print_table(flip_table(result))
    if not result["flips"]:
        say("No prediction changed.")
    print_table(gate_table(result["gates"], PROBES))


def _print_genes(result: Genes) -> None:
    from .tables.drift import gate_table
    from .tables.quality import gene_table, task_table

    say_cautions([*result["cautions"], *result["notes"]])
    source = result["source"]
    say(f"{source['count']} patches of {source['name']}; Pearson's correlation, mean over genes and splits")
    print_table(task_table(result))
    print_table(gene_table(result))
    print_table(gate_table(result["gates"]))


def print_slides(result: SlidesResult) -> None:
    from .tables.slides import slide_table

    say_cautions([*result["cautions"], *result["notes"]])
    print_table(slide_table(result))
    states = Counter(slide["state"] for slide in result["slides"])
    counts = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
    say(f"{len(result['slides'])} {'slide' if len(result['slides']) == 1 else 'slides'}: {counts}")


def print_pack(info: Any, as_json: bool) -> None:
    if as_json:
        print_json(info.to_json())
    else:
        for bad in (bad for source in info.sources for bad in source.get("skipped", ())):
            say(f"skipped {bad}", err=True)
        say(f"{info.path}: {info.count} tiles, seed {info.seed}, sha256 {info.sha256[:16]}")


def say_cautions(cautions: list[str]) -> None:
    for caution in cautions:
        typer.secho(printable(caution), fg=typer.colors.YELLOW, err=True)


def say_skipped(skipped: Iterable[Sequence[str]]) -> None:
    """Name the tiles that were left out, and why."""
    for key, reason in skipped:
        say(f"skipped {key}: {reason}", err=True)


def verdict(rows: Iterable[GateRow | Held], strict: bool = False) -> str:
    """Say what a result's gates come to; `strict` counts those that are inconclusive as failed."""
    verdicts = [row["verdict"] for row in rows]
    inferior = verdicts.count(Verdict.INFERIOR)
    if inferior:
        return f"FAILED ({inferior} of {len(verdicts)} gates missed)"
    return _unsure(verdicts.count(Verdict.INCONCLUSIVE), len(verdicts), strict)


def page_verdict(done: Mapping[str, Any], strict: bool) -> str:
    """Say the same of a page that was written."""
    return _unsure(done["inconclusive"], done["gates"], strict) if done["passed"] else "FAILED"


def _unsure(unsure: int, gates: int, strict: bool) -> str:
    if not unsure:
        return "passed"
    reason = f"{unsure} of {gates} gates inconclusive, n is too small to tell"
    return f"FAILED ({reason})" if strict else f"passed, with caution: {reason} (--strict fails)"


def end_with(
    bundle: Path,
    result: _Result,
    gates: Iterable[GateRow],
    show: Callable[[_Result], None],
    as_json: bool,
    strict: bool,
) -> NoReturn:
    """Print a bundle's result and its verdict, and end the command with the exit code of that."""
    print_result(result, show, as_json)
    if not as_json:
        say(f"{bundle}: {verdict(gates, strict)}")
    raise leave(str(result["verdict"]), strict)


def leave(verdict: str, strict: bool) -> typer.Exit:
    """Return what ends a command that judged: 1 where a gate was missed, or, if `strict`, could not be decided."""
    return typer.Exit(verdict == Verdict.INFERIOR or (strict and verdict == Verdict.INCONCLUSIVE))


@contextmanager
def say_how_to_go_on(state: Path, how: str) -> Iterator[None]:
    """Where Ctrl-C leaves a file that work can go on from, say so."""
    try:
        yield
    except KeyboardInterrupt:
        if state.is_file():
            say(f"edgepath: stopped; go on with {how}, from {state}", err=True)
        raise
