"""`edgepath slides`: whole slides in, embeddings out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..reports.console import print_result, print_slides, progress_bars
from .app import RESULT, RUN, commands
from .options import AsJson, BundleFolder, SameWeights, Threads, Trust

if TYPE_CHECKING:
    from ..bundle.bundle import Bundle
    from ..reports.slide_map import Pictures
    from ..slides.results import SlidesResult


class Against(str, Enum):
    """What an artifact's embeddings are compared with."""

    fp32 = "fp32"


EMBED = "embed"  # what is meant where no command is named

Against32 = Annotated[
    Against | None,
    typer.Option(
        rich_help_panel=RUN,
        help="Embed with the full-precision model too, and report how far apart the embeddings are.",
    ),
]
OnRay = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=RUN, help="Embed on Ray: local, auto (the cluster this machine is part of), or HOST:PORT."
    ),
]
Picture = Annotated[
    bool,
    typer.Option(
        "--picture", rich_help_panel=RESULT, help="Draw each slide: its tiles, and its embeddings as colours."
    ),
]
Upsampled = Annotated[bool, typer.Option("--allow-upsampling", help="Enlarge slides that are coarser than --mpp.")]


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    usage = "`edgepath slides BUNDLE SLIDES --out FOLDER`; its options: `edgepath slides embed --help`"
    group = commands(f"Embed whole slides: {usage}.", default=EMBED)
    group.command(EMBED)(embed)
    group.command("check")(check)
    app.add_typer(group, name="slides")


def embed(
    bundle: BundleFolder,
    slides: Annotated[list[str], typer.Argument(help="Slides, a folder of them, a manifest.csv, or synthetic:N.")],
    out: Annotated[
        Path, typer.Option(rich_help_panel=RESULT, help="Folder for the features; a second run continues the first.")
    ],
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of the tiles.")] = 0.5,
    layout: Annotated[
        str, typer.Option(rich_help_panel=RESULT, help="File layout: trident, clam, stamp, parquet or anndata.")
    ] = "trident",
    geojson: Annotated[
        bool, typer.Option("--geojson", rich_help_panel=RESULT, help="Also write tissue and tiles for QuPath.")
    ] = False,
    tissue: Annotated[str, typer.Option(help="otsu, none, a mask image, or a GeoJSON of QuPath.")] = "otsu",
    tissue_share: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest share of tissue that a tile needs.")
    ] = 0.1,
    overlap: Annotated[int, typer.Option(min=0, help="Pixels that neighbouring tiles share.")] = 0,
    mpp_of_slide: Annotated[
        float | None, typer.Option(help="The slides' own micrometres per pixel, where their files do not say it.")
    ] = None,
    mpp_key: Annotated[
        str | None, typer.Option(help="The slide property that holds micrometres per pixel, instead of the usual ones.")
    ] = None,
    allow_upsampling: Upsampled = False,
    bad_tiles: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of tiles that may fail to decode.")
    ] = 0.01,
    shard: Annotated[
        str | None, typer.Option(rich_help_panel=RUN, help="Only part I of N, as I/N: for job arrays.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, rich_help_panel=RUN, help="Tiles in one call of the artifact.")] = 8,
    readers: Annotated[
        int, typer.Option(min=1, max=64, rich_help_panel=RUN, help="Threads that read the slide ahead.")
    ] = 2,
    threads: Threads = 0,
    picture: Picture = False,
    against: Against32 = None,
    weights: SameWeights = None,
    ray: OnRay = None,
    workers: Annotated[
        int, typer.Option(min=1, rich_help_panel=RUN, help="With --ray: actors, each of --threads threads.")
    ] = 1,
    trust: Trust = None,
    as_json: AsJson = False,
) -> None:
    """Embed every slide to a file of its own; slides whose file is present and current are kept."""
    from ..bundle.bundle import open_bundle
    from ..slides.embedding import Job
    from ..slides.listing import list_slides
    from ..slides.listing import shard as part_of
    from ..tiles.slides.cutting import CutSettings

    opened = open_bundle(bundle, trust=trust)
    settings = CutSettings(opened.size, mpp, overlap, tissue, tissue_share, mpp_of_slide, mpp_key, allow_upsampling)
    job = Job(opened, out, settings, layout, geojson, bad_tiles, batch, readers)
    job.check()
    finish = _finish(opened, out, picture, against, weights)
    entries = list_slides(slides)
    entries = entries if shard is None else part_of(entries, shard)
    with progress_bars() as progress:
        if ray is None:
            from ..slides.many import embed_slides

            done = embed_slides(job, entries, threads=threads, finish=finish, progress=progress)
        else:
            from ..slides.cluster import embed_on_cluster

            each = max(1, threads)
            done = embed_on_cluster(
                job, entries, address=ray, workers=workers, threads=each, finish=finish, progress=progress
            )
    _end(done, as_json)


def _end(result: SlidesResult, as_json: bool) -> None:
    """Print what became of slides; exit code 1 where one failed."""
    from ..slides.results import GOOD

    print_result(result, print_slides, as_json)
    if any(slide["state"] not in GOOD for slide in result["slides"]):
        raise typer.Exit(1)


def _finish(bundle: Bundle, out: Path, picture: bool, against: Against | None, weights: str | None) -> Pictures | None:
    """Return what is done with each slide once it is embedded."""
    from ..machine.packages import require
    from ..reports.slide_map import Pictures
    from ..slides.against import FullPrecision

    if weights is not None and against is None:
        raise UsageError("slides: --weights is only needed with --against fp32; give that too, or leave out --weights")
    if picture:
        require("matplotlib", "plots")
    if not picture and against is None:
        return None
    exact = FullPrecision(bundle, weights) if against is not None else None
    floor, gate = 1 - bundle.noise_floor.cosine_mean, 1 - bundle.recipe.accept.cosine_mean
    return Pictures(bundle.name, out.resolve() / "pictures" if picture else None, exact, floor, gate)


def check(
    folder: Annotated[Path, typer.Argument(help="A folder that `edgepath slides --out` wrote.")],
    slides: Annotated[
        list[str] | None,
        typer.Option(help="The slides that should be there, as `edgepath slides` takes them; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether a folder is complete, whole, and of one artifact; and what failed and why."""
    from ..slides.checking import check_slides
    from ..slides.listing import list_slides

    _end(check_slides(folder, list_slides(slides) if slides else ()), as_json)
