"""The commands that measure speed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checks.verdicts import Verdict, overall
from ..errors import UsageError
from ..reports.console import leave, print_bench, print_result, progress_bars
from .app import RESULT, RUN, commands, deprecated
from .options import (
    AsJson,
    Device,
    Force,
    ModelConfig,
    Plot,
    ReferenceModel,
    SameWeights,
    Strict,
    Trust,
    Weights,
    trusted,
    which_model,
)

if TYPE_CHECKING:
    from ..speed.baseline import Elsewhere
    from ..speed.results import Bench


Batches = Annotated[
    list[int] | None,
    typer.Option(
        min=1, help="Tiles in one call; repeatable. Default: 1, 4, 16; for `bench reference` 1, 2, 4, ... 256."
    ),
]
AllThreads = Annotated[
    int, typer.Option(min=0, max=1024, rich_help_panel=RUN, help="CPU threads and cores for all; 0 = all cores.")
]
Rounds = Annotated[int, typer.Option(min=3, help="Rounds at most; in a round everything is called once, in turn.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Seconds at most for each candidate and batch size.")]
WarmUp = Annotated[int, typer.Option(min=1, help="Calls of each candidate that are not timed, before the first round.")]
Compare = Annotated[
    Path | None,
    typer.Option(help="An earlier result of this machine (--out); fail where a ratio got worse than --worse."),
]
Worse = Annotated[
    float, typer.Option(help="With --compare: how many times its earlier value a latency ratio may reach.")
]


def bench(
    bundles: Annotated[list[Path], typer.Argument(help="Bundle folders.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="What to compare with: fp32 (full precision in the same runtime), torch (PyTorch), peer (INT8 of NNCF "
            "or ONNX Runtime), another bundle, or a .json result of bench; repeatable."
        ),
    ] = None,
    batch: Batches = None,
    threads: AllThreads = 0,
    rounds: Rounds = 40,
    seconds: Seconds = 20.0,
    warm_up: WarmUp = 5,
    cold: Annotated[
        int,
        typer.Option(min=0, help="Fresh processes that measure cold start and memory; 0 leaves both out."),
    ] = 3,
    operations: Annotated[
        bool, typer.Option("--operations", help="Also show how the time is divided among operations.")
    ] = False,
    weights: SameWeights = None,
    compare: Compare = None,
    worse: Worse = 1.10,
    plot: Plot = None,
    out: Annotated[
        Path | None, typer.Option(rich_help_panel=RESULT, help="Write the result to this .json file.")
    ] = None,
    trust: Trust = None,
    force: Force = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Time bundles beside full precision, PyTorch, other tools' INT8 or each other, in turn on this machine."""
    from ..speed import benchmark

    earlier = _check(out, plot, bundles, compare, worse, force)
    with progress_bars() as progress:
        result = benchmark.bench(
            [trusted(bundle, trust) for bundle in bundles],
            against=[
                trusted(Path(rival), trust) if Path(rival, "bundle.json").is_file() else rival
                for rival in against or ()
            ],
            batches=batch or benchmark.BATCHES,
            threads=threads,
            rounds=rounds,
            seconds=seconds,
            warm_up=warm_up,
            cold=cold,
            profile=operations,
            weights=weights,
            progress=progress,
        )
    _end(result, out, plot, earlier, worse, strict, as_json)


def reference(
    model: ReferenceModel = None,
    model_config: ModelConfig = None,
    weights: Weights = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32, tf32, fp16 or bf16, or one of them with +compile; repeatable. Default: all."),
    ] = None,
    batch: Batches = None,
    threads: AllThreads = 0,
    rounds: Rounds = 40,
    seconds: Seconds = 20.0,
    warm_up: WarmUp = 5,
    device: Device = "auto",
    compare: Compare = None,
    worse: Worse = 1.10,
    plot: Plot = None,
    out: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=RESULT, help="Write the result to this .json file, or to <out>/<device>/<model>.json."
        ),
    ] = None,
    force: Force = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Time the full-precision model in PyTorch in every precision, eager and compiled: what a GPU or CPU needs."""
    from ..speed.reference import BATCHES, reference_suite, result_file

    named = which_model(model, model_config, "h0-mini")
    out = None if out is None else result_file(out, named, device)
    earlier = _check(out, plot, [], compare, worse, force)
    with progress_bars() as progress:
        result = reference_suite(
            named,
            weights=weights,
            device=device,
            batches=batch or BATCHES,
            precisions=precision or (),
            threads=threads,
            rounds=rounds,
            seconds=seconds,
            warm_up=warm_up,
            progress=progress,
        )
    _end(result, out, plot, earlier, worse, strict, as_json)


def _check(
    out: Path | None, plot: Path | None, bundles: list[Path], compare: Path | None, worse: float, force: bool
) -> "Elsewhere | None":
    """Refuse options and outputs that cannot be used, before minutes of work; return the earlier result."""
    if not worse > 0:
        raise UsageError(f"bench: --worse {worse}; give a ratio such as 1.10")
    _check_outputs(out, plot, bundles, force)
    return None if compare is None else _earlier(compare)


def _end(
    result: "Bench",
    out: Path | None,
    plot: Path | None,
    earlier: "Elsewhere | None",
    worse: float,
    strict: bool,
    as_json: bool,
) -> None:
    """Draw, write, compare and print a result, and end the command with the exit code of its verdict."""
    if plot is not None:
        from ..reports.drawings import draw_latency

        draw_latency(result, plot)
    _write(out, result)  # before it is compared: what was timed is not lost to a baseline that does not fit
    if earlier is not None:
        from ..speed.baseline import compare

        result["compared"] = compare(result, earlier, worse)
        result["passed"] = result["passed"] and result["compared"]["passed"]
        both = (result["verdict"], result["compared"]["verdict"])
        result["verdict"] = overall(map(Verdict, both)).value
        _write(out, result)
    print_result(result, lambda bench: print_bench(bench, strict), as_json)
    raise leave(result["verdict"], strict)


def _older(arguments: list[str]) -> list[str]:
    """Turn `bench --reference` into `bench reference`."""
    if "--reference" not in arguments:
        return arguments
    deprecated("edgepath bench --reference", "edgepath bench reference")
    return ["reference", *(word for word in arguments if word != "--reference")]


def _check_outputs(out: Path | None, plot: Path | None, bundles: list[Path], force: bool) -> None:
    """Refuse outputs that cannot be written, before minutes of work."""
    from ..reports.plots import check_plot

    check_plot(plot, bundles, force=force)
    if out is not None and (out.suffix != ".json" or out.is_dir()):
        raise UsageError(f"bench: --out {out}; give a file that ends in .json")
    if out is not None:
        from ..machine.writing import check_output

        check_output(out, force=force)


def _earlier(path: Path) -> "Elsewhere":
    """Read an earlier result of this machine."""
    from ..machine.hardware import machine
    from ..speed.baseline import check_machine, read_result

    earlier = read_result(path)
    check_machine(machine(), earlier)
    return earlier


def _write(out: Path | None, result: "Bench") -> None:
    if out is None:
        return
    import json

    from ..machine.writing import write_text

    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, json.dumps(result, indent=2) + "\n", "result")


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = commands(
        "Measure speed: `edgepath bench BUNDLE`, or what full precision takes: `edgepath bench reference`.",
        default="bundles",
        translate=_older,
    )
    group.command("bundles")(bench)
    group.command("reference")(reference)
    app.add_typer(group, name="bench")
