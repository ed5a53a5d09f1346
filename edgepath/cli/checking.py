"""Commands that check an artifact: its drift, its layers, its graph's form, what devices said of it."""

from pathlib import Path
from typing import Annotated

import typer

from ..reports.console import (
    end_with,
    leave,
    page_verdict,
    print_comparison,
    print_debugging,
    print_json,
    print_result,
    print_table,
    print_verification,
    progress_bars,
    say,
)
from .app import RESULT, TILES, commands
from .options import (
    AsJson,
    BundleFolder,
    Device,
    Force,
    Plot,
    Resize,
    ResizeOption,
    SameWeights,
    SkipBad,
    Strict,
    Threads,
    Trust,
    there,
    trusted,
)


def verify(
    bundle: BundleFolder,
    tiles: Annotated[
        str | None,
        typer.Option(
            callback=there,
            rich_help_panel=TILES,
            help="Measure on these too: a folder of tiles or slides, a pack, `synthetic`.",
        ),
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(rich_help_panel=TILES, help="Compare with this file of `edgepath reference capture` too."),
    ] = None,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    device: Device = "auto",
    trust: Trust = None,
    signature: Annotated[Path | None, typer.Option(help="Its signature; default: BUNDLE.sig beside it.")] = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Check a bundle's hashes, run its artifact, and compare its drift with the recipe's gates."""
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
            trust=trust,
            signature=signature,
            progress=progress,
        )
    parts = (result["golden"], result["captured"], result["tiles"])
    gates = [gate for part in parts if part is not None for gate in part["gates"]]
    end_with(bundle, result, gates, print_verification, as_json, strict)


def sign(
    bundle: BundleFolder,
    key: Annotated[Path | None, typer.Option(help="A private key (PEM, elliptic curve P-256 to P-521).")] = None,
    password: Annotated[str | None, typer.Option(envvar="EDGEPATH_KEY_PASSWORD", help="Of the key.")] = None,
    certificate: Annotated[Path | None, typer.Option(help="A certificate (PEM) of the key.")] = None,
    chain: Annotated[list[Path] | None, typer.Option(help="Certificates between it and its root.")] = None,
    pkcs11: Annotated[str, typer.Option(help="The URI of a key in a token, instead of --key.")] = "",
    out: Annotated[Path | None, typer.Option(help="The signature; default: BUNDLE.sig beside the bundle.")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Sign a bundle, so that others can tell who vouches for it: `verify --trust`, `kit/check.py --trust`."""
    from ..bundle.signing import sign as run

    signed = run(
        bundle,
        key=key,
        password=password,
        certificate=certificate,
        chain=chain or (),
        pkcs11=pkcs11,
        out=out,
        force=force,
    )
    if as_json:
        print_json(signed)
    else:
        say(f"signed {signed['bundle']} (bundle.json {signed['digest'][:12]}): {signed['signature']}")


def compare(
    bundles: Annotated[list[Path], typer.Argument(help="Two or more bundle folders of one model.")],
    tiles: Annotated[
        str | None,
        typer.Option(callback=there, rich_help_panel=TILES, help="A folder or pack of tiles; default: golden tiles."),
    ] = None,
    plot: Plot = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    trust: Trust = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Show whether bundles of one model agree: cosine per tile, and whether a tile finds itself in the other bundle."""
    from ..checks.comparison import compare as run
    from ..reports.plots import check_plot

    check_plot(plot, bundles, force=force)
    with progress_bars() as progress:
        result = run(
            [trusted(bundle, trust) for bundle in bundles],
            tiles=tiles,
            resize=resize.value,
            skip_bad=skip_bad,
            threads=threads,
            progress=progress,
        )
    if plot is not None:
        from ..reports.drawings import draw_pairs

        draw_pairs(result, plot)
    print_result(result, print_comparison, as_json)


def debug(
    bundle: BundleFolder,
    tiles: Annotated[
        str | None,
        typer.Option(callback=there, rich_help_panel=TILES, help="Up to 64 tiles; default: the golden tiles."),
    ] = None,
    plot: Plot = None,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    trust: Trust = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Show where drift comes from, layer by layer, and whether the artifact holds the program's own weights."""
    from ..checks.debugging import debug as run
    from ..reports.plots import check_plot

    check_plot(plot, [bundle], force=force)
    with progress_bars() as progress:
        result = run(trusted(bundle, trust), tiles=tiles, weights=weights, resize=resize.value, progress=progress)
    if plot is not None:
        from ..reports.drawings import draw_debug

        draw_debug(result, plot)
    print_result(result, print_debugging, as_json)
    network = result["network"]
    odd = network is not None and (network["differ"] or not network["finite"])
    raise typer.Exit(1 if result["parts"]["differences"] or result["unproved"] or odd else 0)


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

    reports = device_reports(open_bundle(bundle))
    if as_json:
        print_json(reports)
    elif reports:
        print_table(device_table(reports))
    else:
        say(f"{bundle}: no device has reported; run kit/check.py on one, then edgepath report add")


def make_page(
    bundle: BundleFolder,
    robustness: Annotated[
        list[Path] | None, typer.Option(help="A file of what `edgepath robustness --json` printed; repeatable.")
    ] = None,
    curves: Annotated[
        list[Path] | None, typer.Option(help="A file of what `edgepath curves --json` printed; repeatable.")
    ] = None,
    probe: Annotated[
        list[Path] | None,
        typer.Option(help="A file of what `edgepath probe labels` or `probe hest` printed with --json; repeatable."),
    ] = None,
    slides: Annotated[
        list[Path] | None, typer.Option(help="A file of what `edgepath slides --json` printed; repeatable.")
    ] = None,
    latency: Annotated[
        list[Path] | None, typer.Option(help="A file of what `edgepath bench --json` printed; repeatable.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(rich_help_panel=RESULT, help="The page; default: BUNDLE.report.html beside the bundle."),
    ] = None,
    force: Force = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Join all that was measured of a bundle in one HTML page."""
    from ..reports.page.merging import write_page

    done = write_page(
        bundle,
        robustness=robustness or (),
        curves=curves or (),
        probe=probe or (),
        slides=slides or (),
        latency=latency or (),
        out=out,
        force=force,
    )
    if as_json:
        print_json(done)
    else:
        if done["not_measured"]:
            say(f"not measured: {', '.join(done['not_measured'])}")
        say(f"{done['file']}: {page_verdict(done, strict)}")
    raise leave(done["verdict"], strict)


def lint(
    path: Annotated[Path, typer.Argument(help="An ONNX file, or a bundle that holds model.onnx.")],
    build: Annotated[
        bool, typer.Option("--build", help="Also have TensorRT-RTX read and build it, without a GPU (extra rtx).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a quantized ONNX graph for what TensorRT and other runtimes reject or run slowly, without any of them."""
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
        say(f"{path}: {errors} errors, {len(findings) - errors} warnings")
    raise typer.Exit(1 if errors else 0)


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (verify, sign, compare, debug, lint):
        app.command()(command)
    group = commands("Keep and show what devices measured (kit/check.py), and make one page of all results.")
    group.command("add")(add_report)
    group.command("show")(show_reports)
    group.command("page")(make_page)
    app.add_typer(group, name="report")
