"""Commands that compare an artifact with its full-precision model: under other stains and scanners, and for a task."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..reports.console import (
    end_with,
    print_curves,
    print_probe,
    print_result,
    print_robustness,
    progress_bars,
)
from .app import RESULT, TILES, commands, deprecated
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


def robustness(
    bundle: BundleFolder,
    plism: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=TILES, help="Folder of owkin/plism-dataset's files STAINING_SCANNER_to_GMH_S60.tif.h5."
        ),
    ] = None,
    paired: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=TILES,
            help="Folder with one folder per scanner; files of one name show the same location.",
        ),
    ] = None,
    tiles: Annotated[
        str,
        typer.Option(
            rich_help_panel=TILES,
            help="How many locations (synthetic tissue: 32), or with --plism an .npy file of row numbers.",
        ),
    ] = "",
    features: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=RESULT,
            help="Keep embeddings in this folder, as plism-benchmark does; a run that was cut off resumes from them.",
        ),
    ] = None,
    float16: Annotated[
        bool,
        typer.Option(
            "--float16", help="Print figures in float16, as plism-benchmark does; gates are still computed in float32."
        ),
    ] = False,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    threads: Threads = 0,
    device: Device = "auto",
    trust: Trust = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Show whether the artifact recognises tissue under another stain and scanner as well as its model does."""
    from ..quality.robustness import robustness as run
    from ..quality.slides import read_rows

    with progress_bars() as progress:
        result = run(
            trusted(bundle, trust),
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
    end_with(bundle, result, result["gates"], print_robustness, as_json, strict)


def curves(
    bundle: BundleFolder,
    tiles: Annotated[
        str,
        typer.Option(
            callback=there, rich_help_panel=TILES, help="A folder of tiles or slides, a pack, or `synthetic:COUNT`."
        ),
    ] = "synthetic:32",
    plot: Plot = None,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    device: Device = "auto",
    trust: Trust = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Degrade tiles step by step (stain, scanner, JPEG, focus) and show how far both models' embeddings move."""
    from ..quality.curves import curves as run
    from ..reports.plots import check_plot

    check_plot(plot, [bundle], force=force)
    with progress_bars() as progress:
        result = run(
            trusted(bundle, trust),
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
    print_result(result, print_curves, as_json)


Task = Annotated[list[str] | None, typer.Option(help="Only this task of the folder; repeatable.")]
Components = Annotated[
    int, typer.Option(min=1, help="Components that PCA keeps; the benchmark's are 256, small models need fewer.")
]


def probe_labels(
    bundle: BundleFolder,
    labelled: Annotated[
        Path, typer.Argument(help="A folder with one folder per class, or a CSV with columns path, label[, slide].")
    ],
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    device: Device = "auto",
    trust: Trust = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Predict the labels of tiles from the artifact's embeddings and from the model's, and show what got worse."""
    from ..quality.probing import probe

    with progress_bars() as progress:
        result = probe(
            trusted(bundle, trust),
            labelled,
            folds=folds,
            seed=seed,
            weights=weights,
            resize=resize.value,
            skip_bad=skip_bad,
            threads=threads,
            device=device,
            progress=progress,
        )
    end_with(bundle, result, result["gates"], print_probe, as_json, strict)


def probe_genes(
    bundle: BundleFolder,
    folder: Annotated[Path, typer.Argument(help="The HEST-Benchmark's folder of tasks, or one task's folder.")],
    task: Task = None,
    components: Components = 256,
    weights: SameWeights = None,
    resize: ResizeOption = Resize.refuse,
    threads: Threads = 0,
    device: Device = "auto",
    trust: Trust = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Predict gene expression by the HEST-Benchmark's protocol from both models' embeddings; show what got worse."""
    from ..quality.hest.measuring import probe_hest

    with progress_bars() as progress:
        result = probe_hest(
            trusted(bundle, trust),
            folder,
            tasks=task or (),
            components=components,
            weights=weights,
            resize=resize.value,
            threads=threads,
            device=device,
            progress=progress,
        )
    end_with(bundle, result, result["gates"], print_probe, as_json, strict)


_WAYS = {"--labelled": "labels", "--hest": "hest"}


def _older(arguments: list[str]) -> list[str]:
    """Turn `BUNDLE --labelled FOLDER` into `labels BUNDLE FOLDER`, and --hest into `hest`."""
    words = [part for word in arguments for part in _split(word)]
    asked = [word for word in words if word in _WAYS]
    if not asked and (not arguments or arguments[0].startswith("-") or arguments[0] in _WAYS.values()):
        return arguments
    if len(asked) != 1 or words[-1] == asked[0]:
        raise UsageError("probe: give `edgepath probe labels BUNDLE FOLDER` or `edgepath probe hest BUNDLE FOLDER`")
    at, way = words.index(asked[0]), _WAYS[asked[0]]
    deprecated(f"edgepath probe BUNDLE {asked[0]} FOLDER", f"edgepath probe {way} BUNDLE FOLDER")
    return [way, *words[:at], *words[at + 2 :], words[at + 1]]


def _split(word: str) -> list[str]:
    option, equals, value = word.partition("=")
    return [option, value] if equals and option in _WAYS else [word]


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (robustness, curves):
        app.command()(command)
    probes = commands("Compare how well both models' embeddings predict: labels of tiles, or genes.", translate=_older)
    probes.command("labels")(probe_labels)
    probes.command("hest")(probe_genes)
    app.add_typer(probes, name="probe")
