"""Commands that hold an artifact against its full-precision model: under other stains and scanners, and for a task."""

from pathlib import Path
from typing import Annotated

import typer

from ..reports.console import (
    print_json,
    print_table,
    progress_bars,
    say_cautions,
    say_skipped,
    verdict,
)
from .genes import show_hest
from .options import (
    AsJson,
    Resize,
    ResizeOption,
    SkipBad,
    Threads,
    choose_one,
)


def robustness(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
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
    weights: Annotated[str | None, typer.Option(help="The full-precision weights, where they were a file.")] = None,
    resize: ResizeOption = Resize.refuse,
    threads: Threads = 0,
    device: Annotated[str, typer.Option(help="Where the full-precision model runs: auto, cpu, cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Show whether the artifact finds the same tissue under another stain and scanner as well as the model did."""
    from ..quality.robustness import robustness as run
    from ..quality.slides import read_rows
    from ..reports.tables.drift import gate_table
    from ..reports.tables.quality import GROUPS, robustness_table

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
        say_cautions([*result["cautions"], *result["notes"]])
        slides = result["slides"]
        print(
            f"{slides['places']} places on {slides['slides']} slides of {slides['name']}; medians over pairs of slides"
        )
        print_table(robustness_table(result))
        if result["leaderboard"]["artifact"] is not None:
            both = [f"{name} {value:.4f}" for name, value in result["leaderboard"].items()]
            whole = (slides["kind"], slides["slides"], slides["places"]) == ("plism", 91, 8139)
            of = "" if whole else "; PLISM's own is of 91 slides and 8,139 places"
            print(f"PLISM's one number: {', '.join(both)}{of}")
        print_table(gate_table(result["gates"], GROUPS))
        print(f"{bundle}: {verdict(result['passed'])}")
    raise typer.Exit(0 if result["passed"] else 1)


def curves(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    tiles: Annotated[str, typer.Option(help="A folder or pack of tiles, or `synthetic:COUNT`.")] = "synthetic:32",
    plot: Annotated[Path | None, typer.Option(help="Draw all curves to this PNG.")] = None,
    weights: Annotated[str | None, typer.Option(help="The full-precision weights, where they were a file.")] = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    device: Annotated[str, typer.Option(help="Where the full-precision model runs: auto, cpu, cuda.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing picture.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stain, scan, store and focus tiles worse by degrees, and show how far both models' embeddings move."""
    from ..quality.curves import curves as run
    from ..reports.tables.quality import curve_table

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
        return
    say_cautions([*result["cautions"], *result["notes"]])
    say_skipped(result["skipped"])
    print(f"{result['source']['count']} tiles of {result['source']['name']}, at each perturbation's last degree")
    print_table(curve_table(result))


def probe(
    context: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
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
    eva_steps: Annotated[int, typer.Option(min=0, help="Also eva's linear head, so many steps (12500 in eva).")] = 0,
    weights: Annotated[str | None, typer.Option(help="The full-precision weights, where they were a file.")] = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    device: Annotated[str, typer.Option(help="Where the full-precision model runs: auto, cpu, cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Predict labels or genes from the artifact's embeddings and from the model's, and show what got worse."""
    choose_one(context, {"labelled": ("folds", "seed", "eva_steps", "skip_bad"), "hest": ("task", "components")})
    if hest is not None:
        options = {"weights": weights, "resize": resize.value, "threads": threads, "device": device}
        show_hest(bundle, hest, as_json, tasks=task or (), components=components, **options)
    assert labelled is not None
    from ..quality.probing import probe as run
    from ..reports.tables.drift import gate_table
    from ..reports.tables.quality import PROBES, flip_table, score_table

    with progress_bars() as progress:
        result = run(
            bundle,
            labelled,
            folds=folds,
            seed=seed,
            eva_steps=eva_steps,
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
        say_cautions([*result["cautions"], *result["notes"]])
        say_skipped(result["skipped"])
        classes = ", ".join(f"{count} {name}" for name, count in result["classes"].items())
        apart = f", {result['groups']} groups, each in one fold" if result["groups"] else ""
        source = result["source"]
        print(f"{source['count']} tiles of {source['name']}: {classes}; {result['folds']} folds{apart}")
        print_table(score_table(result))
        if result["flips"]:
            print_table(flip_table(result))
        else:
            print("No prediction changed.")
        print_table(gate_table(result["gates"], PROBES))
        print(f"{bundle}: {verdict(result['passed'])}")
    raise typer.Exit(0 if result["passed"] else 1)


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (robustness, curves, probe):
        app.command()(command)
