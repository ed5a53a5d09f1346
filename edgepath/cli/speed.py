"""The command that measures speed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..reports.console import print_bench, print_json, progress_bars
from .options import AsJson, Force, Plot, SameWeights

if TYPE_CHECKING:
    from ..speed.baseline import Elsewhere
    from ..speed.results import Bench


def bench(
    bundles: Annotated[list[Path] | None, typer.Argument(help="Bundle folders.")] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="fp32, torch, peer, another bundle, or a .json file of bench; repeatable.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Tiles a call; repeatable; default 1, 4, 16.")] = None,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads and cores for all; 0 = all cores.")] = 0,
    rounds: Annotated[int, typer.Option(min=3, help="Calls of each, at most, one after the other.")] = 40,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for each and batch, at most.")] = 20.0,
    warm_up: Annotated[int, typer.Option(min=1, help="Untimed calls of each before.")] = 5,
    cold: Annotated[int, typer.Option(min=0, help="Fresh processes for cold start; 0 leaves out memory too.")] = 3,
    operations: Annotated[bool, typer.Option("--operations", help="Show where the time goes, too.")] = False,
    weights: SameWeights = None,
    compare: Annotated[Path | None, typer.Option(help="An earlier result of this machine: fail if worse.")] = None,
    worse: Annotated[float, typer.Option(help="How many times its ratio a ratio may be.")] = 1.10,
    reference: Annotated[bool, typer.Option("--reference", help="PyTorch's precisions instead of bundles.")] = False,
    model: Annotated[str, typer.Option(help="For --reference: a name of `edgepath models`, or timm:NAME.")] = "h0-mini",
    precision: Annotated[
        list[str] | None, typer.Option(help="For --reference: fp32, tf32, fp16, bf16, or with +compile; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="For --reference: auto, cpu, cuda.")] = "auto",
    plot: Plot = None,
    out: Annotated[Path | None, typer.Option(help="Write the result to this .json (--reference: or folder).")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Time bundles against their full-precision model, PyTorch, peers or an earlier result, in turn on this machine."""
    _check_options(bundles, reference, against, operations, precision, worse)
    if reference and out is not None:
        from ..speed.reference import result_file

        out = result_file(out, model, device)
    _check_outputs(out, plot, bundles or [], force)
    earlier = None if compare is None else _earlier(compare)
    effort: dict[str, Any] = {"threads": threads, "rounds": rounds, "seconds": seconds, "warm_up": warm_up}
    with progress_bars() as progress:
        if reference:
            from ..speed.reference import BATCHES, reference_suite

            how = {"device": device, "batches": batch or BATCHES, "precisions": precision or (), **effort}
            result = reference_suite(model, weights=weights, progress=progress, **how)
        else:
            from ..speed import benchmark

            how = {"against": against or (), "batches": batch or benchmark.BATCHES, "cold": cold, **effort}
            result = benchmark.bench(bundles or [], profile=operations, weights=weights, progress=progress, **how)
    if plot is not None:
        from ..reports.drawings import draw_latency

        draw_latency(result, plot)
    _write(out, result)  # before it is compared: what was timed is not lost to a baseline that does not fit
    if earlier is not None:
        from ..speed.baseline import compare as hold

        result["compared"] = hold(result, earlier, worse)
        result["passed"] = result["passed"] and result["compared"]["passed"]
        _write(out, result)
    if as_json:
        print_json(result)
    else:
        print_bench(result)
    raise typer.Exit(0 if result["passed"] else 1)


def _check_options(
    bundles: list[Path] | None,
    reference: bool,
    against: list[str] | None,
    operations: bool,
    precision: list[str] | None,
    worse: float,
) -> None:
    if reference == bool(bundles):
        found = "bundles and --reference, which has none" if bundles else "neither bundles nor --reference"
        raise UsageError(f"bench: {found}; give bundles, or --reference and a --model")
    others = {"--against": against, "--operations": operations} if reference else {"--precision": precision}
    for option, value in others.items():
        if value:
            raise UsageError(f"bench: {option} is for {'bundles' if reference else '--reference'}; leave it out")
    if not worse > 0:
        raise UsageError(f"bench: --worse {worse}; give a ratio such as 1.10")


def _check_outputs(out: Path | None, plot: Path | None, bundles: list[Path], force: bool) -> None:
    """Refuse outputs that cannot be written, before minutes of work."""
    if plot is not None:
        from ..reports.plots import check_plot

        check_plot(plot, bundles, force=force)
    if out is not None and (out.suffix != ".json" or out.is_dir()):
        raise UsageError(f"bench: --out {out}; give a file that ends in .json")
    if out is not None and out.exists() and not force:
        raise UsageError(f"{out} exists; give --force to replace it, or another name")


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

    from ..machine.writing import replacing

    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, "result") as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(bench)
