"""Commands that hold an artifact against its full-precision model: under other stains and scanners, and for a task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..reports.console import (
    print_curves,
    print_genes,
    print_json,
    print_probe,
    print_robustness,
    progress_bars,
    verdict,
)
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
    Threads,
    choose_one,
)


def robustness(
    bundle: BundleFolder,
    plism: Annotated[
        Path | None, typer.Option(help="Folder of owkin/plism-dataset's files STAINING_SCANNER_to_GMH_S60.tif.h5.")
    ] = None,
    paired: Annotated[
        Path | None, typer.Option(help="Folder with a folder a scanner; same file name = same place.")
    ] = None,
    tiles: Annotated[
        str, typer.Option(help="How many places (synthetic: 32), or an .npy of row numbers (PLISM).")
    ] = "",
    features: Annotated[
        Path | None, typer.Option(help="Keep embeddings here, as plism-benchmark does; resumes.")
    ] = None,
    float16: Annotated[
        bool, typer.Option("--float16", help="Round embeddings first, as plism-benchmark does.")
    ] = False,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    threads: Threads = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show whether the artifact finds the same tissue under another stain and scanner as well as the model did."""
    from ..quality.robustness import robustness as run
    from ..quality.slides import read_rows

    with progress_bars() as progress:
        result = run(
            bundle,
            plism=plism,
            paired=paired,
            tiles=read_rows(tiles),
            features=features,
            half=float16,
            weights=weights,
            resize=resize.value,
            threads=threads,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json(result)
    else:
        print_robustness(result)
        print(f"{bundle}: {verdict(result['passed'])}")
    raise typer.Exit(0 if result["passed"] else 1)


def curves(
    bundle: BundleFolder,
    tiles: Annotated[str, typer.Option(help="A folder or pack of tiles, or `synthetic:COUNT`.")] = "synthetic:32",
    plot: Plot = None,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Stain, scan, store and focus tiles worse by degrees, and show how far both models' embeddings move."""
    from ..quality.curves import curves as run

    if plot is not None:
        from ..reports.plots import check_plot

        check_plot(plot, [bundle], force=force)
    with progress_bars() as progress:
        result = run(
            bundle,
            tiles,
            weights=weights,
            resize=resize.value,
            skip_bad=skip_bad,
            threads=threads,
            device=device,
            progress=progress,
        )
    if plot is not None:
        from ..reports.drawings import draw_curves

        draw_curves(result, plot)
    if as_json:
        print_json(result)
    else:
        print_curves(result)


def probe(
    context: typer.Context,
    bundle: BundleFolder,
    labelled: Annotated[
        Path | None, typer.Option(help="A folder with a folder a class, or a CSV: path, label[, slide].")
    ] = None,
    hest: Annotated[
        Path | None, typer.Option(help="Instead: the HEST-Benchmark's folder of tasks, or one task's.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task of --hest; again for more.")] = None,
    components: Annotated[int, typer.Option(min=1, help="What PCA leaves, for --hest; the benchmark's is 256.")] = 256,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict labels or genes from the artifact's embeddings and from the model's, and show what got worse."""
    choose_one(context, {"labelled": ("folds", "seed", "skip_bad"), "hest": ("task", "components")})
    options: dict[str, Any] = {"weights": weights, "resize": resize.value, "threads": threads, "device": device}
    result: Mapping[str, Any]
    with progress_bars() as progress:
        if hest is not None:
            from ..quality.hest.measuring import probe_hest

            result = probe_hest(bundle, hest, tasks=task or (), components=components, progress=progress, **options)
        else:
            from ..quality.probing import probe as run

            assert labelled is not None
            options |= {"folds": folds, "seed": seed, "skip_bad": skip_bad}
            result = run(bundle, labelled, progress=progress, **options)
    if as_json:
        print_json(result)
    else:
        (print_probe if hest is None else print_genes)(result)
        print(f"{bundle}: {verdict(result['passed'])}")
    raise typer.Exit(0 if result["passed"] else 1)


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (robustness, curves, probe):
        app.command()(command)
