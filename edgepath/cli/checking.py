"""Commands that check an artifact: its drift, its layers, its graph's form, what devices said of it."""

from pathlib import Path
from typing import Annotated

import typer

from ..reports.console import (
    print_comparison,
    print_debugging,
    print_json,
    print_table,
    print_verification,
    progress_bars,
    verdict,
)
from .app import commands
from .options import AsJson, BundleFolder, Device, Force, Plot, Resize, ResizeOption, SameWeights, SkipBad, Threads


def verify(
    bundle: BundleFolder,
    tiles: Annotated[str | None, typer.Option(help="A folder or pack of other tiles, or `synthetic`.")] = None,
    golden: Annotated[Path | None, typer.Option(help="A golden set of `edgepath reference capture`.")] = None,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Check a bundle's hashes, run its artifact and hold its drift against the recipe's gates."""
    from ..checks.verification import verify as run

    with progress_bars() as progress:
        result = run(
            bundle,
            tiles=tiles,
            golden=golden,
            weights=weights,
            resize=resize.value,
            skip_bad=skip_bad,
            threads=threads,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json(result)
    else:
        print_verification(result)
        print(f"{bundle}: {verdict(result['passed'])}")
    raise typer.Exit(0 if result["passed"] else 1)


def compare(
    bundles: Annotated[list[Path], typer.Argument(help="Two or more bundle folders of one model.")],
    tiles: Annotated[str | None, typer.Option(help="A folder or pack of tiles; default: golden tiles.")] = None,
    plot: Plot = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Show whether bundles of one model agree, tile by tile: does a tile find its twin made elsewhere?"""
    from ..checks.comparison import compare as run

    if plot is not None:
        from ..reports.plots import check_plot

        check_plot(plot, bundles, force=force)
    with progress_bars() as progress:
        result = run(
            bundles,
            tiles=tiles,
            resize=resize.value,
            skip_bad=skip_bad,
            threads=threads,
            progress=progress,
        )
    if plot is not None:
        from ..reports.drawings import draw_pairs

        draw_pairs(result, plot)
    if as_json:
        print_json(result)
    else:
        print_comparison(result)


def debug(
    bundle: BundleFolder,
    tiles: Annotated[str | None, typer.Option(help="Up to 64 tiles; default: the golden ones.")] = None,
    plot: Plot = None,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Show where drift comes from, layer by layer, and whether the artifact holds the program's linears and norms."""
    from ..checks.debugging import debug as run

    if plot is not None:
        from ..reports.plots import check_plot

        check_plot(plot, [bundle], force=force)
    with progress_bars() as progress:
        result = run(bundle, tiles=tiles, weights=weights, resize=resize.value, progress=progress)
    if plot is not None:
        from ..reports.drawings import draw_debug

        draw_debug(result, plot)
    if as_json:
        print_json(result)
    else:
        print_debugging(result)
    raise typer.Exit(1 if result["parts"]["differences"] or result["unproved"] else 0)


def add_report(
    bundle: Annotated[Path, typer.Argument(help="The bundle that was copied to the device.")],
    report: Annotated[Path, typer.Argument(help="device-report.json, as kit/check.py wrote it there.")],
) -> None:
    """Keep what a device measured, beside the bundle."""
    from ..bundle.device_reports import add_report as run
    from ..reports.tables.drift import device_table

    added = run(bundle, report)
    print_table(device_table([added]))
    raise typer.Exit(0 if added["passed"] else 1)


def show_reports(
    bundle: BundleFolder,
    as_json: AsJson = False,
) -> None:
    """Show what devices measured of a bundle."""
    from ..bundle.bundle import open_bundle
    from ..bundle.device_reports import device_reports
    from ..reports.tables.drift import device_table

    found = device_reports(open_bundle(bundle))
    if as_json:
        print_json(found)
    elif found:
        print_table(device_table(found))
    else:
        print(f"{bundle}: no device has reported; run kit/check.py on one, then edgepath report add")


def make_page(
    bundle: BundleFolder,
    robustness: Annotated[list[Path] | None, typer.Option(help="What `edgepath robustness --json` printed.")] = None,
    curves: Annotated[list[Path] | None, typer.Option(help="What `edgepath curves --json` printed.")] = None,
    probe: Annotated[
        list[Path] | None, typer.Option(help="What `edgepath probe --json` printed, of either kind.")
    ] = None,
    latency: Annotated[list[Path] | None, typer.Option(help="What `edgepath bench --json` printed.")] = None,
    out: Annotated[Path | None, typer.Option(help="The page; default: BUNDLE.report.html beside the bundle.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Join all that was measured of a bundle in one HTML page; options can be given several times."""
    from ..reports.page.merging import write_page

    done = write_page(
        bundle,
        robustness=robustness or (),
        curves=curves or (),
        probe=probe or (),
        latency=latency or (),
        out=out,
        force=force,
    )
    if as_json:
        print_json(done)
    else:
        if done["not_measured"]:
            print(f"not measured: {', '.join(done['not_measured'])}")
        print(f"{done['file']}: {'passed' if done['passed'] else 'FAILED'}")
    raise typer.Exit(0 if done["passed"] else 1)


def lint(
    path: Annotated[Path, typer.Argument(help="An ONNX file, or a bundle that holds model.onnx.")],
    build: Annotated[
        bool, typer.Option("--build", help="Also have TensorRT-RTX read and build it, without a GPU (extra rtx).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a quantized ONNX graph for what TensorRT and other runtimes stumble over, without any of them."""
    from ..checks.lint import lint as run
    from ..machine.packages import require
    from ..reports.tables.checks import finding_table

    require("onnx", "export")
    findings = run(path)
    if build:
        from ..checks.trial import trial_build

        findings = trial_build(path) + findings
    errors = sum(finding.level == "error" for finding in findings)
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        print_table(finding_table(findings))
        print(f"{path}: {errors} errors, {len(findings) - errors} warnings")
    raise typer.Exit(1 if errors else 0)


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (verify, compare, debug, lint):
        app.command()(command)
    reports = commands("Keep and show what devices measured (kit/check.py), and make one page of all results.")
    reports.command("add")(add_report)
    reports.command("show")(show_reports)
    reports.command("page")(make_page)
    app.add_typer(reports, name="report")
