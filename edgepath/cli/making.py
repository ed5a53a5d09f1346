"""Commands that make something: bundles, students, packs, files of embeddings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..reports.console import (
    leave,
    print_json,
    print_pack,
    print_report,
    print_table,
    progress_bars,
    say,
    say_cautions,
    say_how_to_go_on,
    say_skipped,
    verdict,
)
from ..reports.table import table
from .app import MODEL, RESULT, RUN, TILES, commands, deprecated
from .options import (
    Anonymous,
    AsJson,
    BundleFolder,
    DemoModel,
    Device,
    EmbeddingOption,
    Force,
    Model,
    ModelConfig,
    ModelOption,
    Outputs,
    Resize,
    ResizeOption,
    SkipBad,
    Strict,
    Threads,
    Trust,
    Weights,
    there,
    trusted,
    weights_there,
    which_model,
)

Calibration = Annotated[
    str,
    typer.Option(
        callback=there,
        rich_help_panel=TILES,
        help="Tiles that set the INT8 scales: a folder of tiles or slides, a calibration pack, or `synthetic`.",
    ),
]


def export(
    target: Annotated[str, typer.Option(help="A name of `edgepath targets`, or a recipe file.")],
    model: DemoModel = None,
    model_config: ModelConfig = None,
    weights: Weights = None,
    calibration: Calibration = "synthetic",
    calibration_tiles: Annotated[
        int, typer.Option(min=1, rich_help_panel=TILES, help="Tiles to calibrate on, at most.")
    ] = 128,
    embedding: EmbeddingOption = None,
    outputs: Annotated[
        Outputs, typer.Option(rich_help_panel=MODEL, help="`tokens` returns the patch tokens beside the embedding.")
    ] = Outputs.embedding,
    qad: Annotated[
        int,
        typer.Option(
            min=0, rich_help_panel=RUN, help="Steps of quantization-aware distillation, for INT8 targets; 0: none."
        ),
    ] = 0,
    speed: Annotated[
        bool,
        typer.Option(
            "--speed",
            rich_help_panel=RUN,
            help="Also time it: fail INT8 that is slower on this machine than full precision in the same runtime.",
        ),
    ] = False,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    anonymous: Anonymous = False,
    out: Annotated[Path, typer.Option(rich_help_panel=RESULT, help="Folder for bundles.")] = Path("build"),
    device: Device = "auto",
    force: Force = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Turn weights into a checked bundle <out>/<model>-<target>/."""
    from ..exporting import export as run

    with progress_bars() as progress:
        done = run(
            target,
            model=which_model(model, model_config, "demo"),
            weights=weights,
            calibration=calibration,
            calibration_tiles=calibration_tiles,
            embedding=embedding.value if embedding else None,
            tokens=outputs is Outputs.tokens,
            qad=qad,
            speed=speed,
            resize=resize.value,
            skip_bad=skip_bad,
            anonymous=anonymous,
            out=out,
            force=force,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json(done.report | {"path": str(done.bundle.path)})
    else:
        print_report(done.report)
        kept = "" if done.passed else "; it is kept, and marked so"
        say(f"{done.bundle.path}: {verdict(done.report['gates'], strict)}{kept}")
    raise leave(done.report["verdict"], strict)


def distill(
    teacher: Model,
    student: Model,
    tiles: Annotated[
        str,
        typer.Option(
            callback=there, rich_help_panel=TILES, help="A folder of tiles, a calibration pack, or `synthetic:COUNT`."
        ),
    ],
    out: Annotated[Path, typer.Option(rich_help_panel=RESULT, help="Folder of the run.")],
    recipe: Annotated[
        str, typer.Option(help="A .toml file with the settings that differ from `recipe`, the built-in ones.")
    ] = "recipe",
    change: Annotated[
        list[str] | None, typer.Option("--set", help="One setting as TABLE.KEY=VALUE, such as training.steps=200.")
    ] = None,
    teacher_weights: Annotated[
        str,
        typer.Option(
            callback=weights_there, rich_help_panel=MODEL, help="A file, FILE::KEY, a hub snapshot folder, or `random`."
        ),
    ] = "",
    student_weights: Annotated[
        str,
        typer.Option(
            callback=weights_there, rich_help_panel=MODEL, help="What the student starts from; default: untrained."
        ),
    ] = "",
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    device: Annotated[str, typer.Option(rich_help_panel=RUN, help="Where it trains: auto, cpu, cuda.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only try a few steps with random weights: does it fit, and how fast is it?"),
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train a small student to see what a large frozen teacher sees; several GPUs: with torchrun."""
    from ..distillation.options import load_options, parse_changes

    changes = parse_changes(change or [])
    load_options(recipe, changes)  # before anything slow is imported
    from ..distillation.training import distill as run

    if dry_run:
        _try_out(teacher, student, recipe, changes, device, as_json)
        return
    with progress_bars() as progress, say_how_to_go_on(out / "checkpoint.pt", "the same command and --resume"):
        done = run(
            teacher,
            student,
            tiles,
            out,
            recipe=recipe,
            options=changes,
            teacher_weights=teacher_weights or None,
            student_weights=student_weights or None,
            resize=resize.value,
            skip_bad=skip_bad,
            device=device,
            resume=resume,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json(done)
    elif done["writes"]:
        say(f"{out}: {done['steps']} steps, loss {done['last']['loss']:.3f}; use it with --weights {out}")


def _try_out(
    teacher: str, student: str, recipe: str, changes: Mapping[str, object], device: str, as_json: bool
) -> None:
    from ..distillation.dryrun import dry_run, to_rows

    with progress_bars() as progress:
        result = dry_run(teacher, student, recipe=recipe, options=changes, device=device, progress=progress)
    if as_json:
        print_json(result)
    else:
        print_table(table(["", ""], to_rows(result)))


def embed(
    bundle: BundleFolder,
    tiles: Annotated[
        list[str], typer.Argument(callback=there, help="A folder of tiles or slides, a pack, files, or `synthetic`.")
    ],
    out: Annotated[Path, typer.Option(rich_help_panel=RESULT, help="Output file: .npz, .h5 or .parquet.")],
    batch: Annotated[int, typer.Option(min=1, rich_help_panel=RUN, help="Tiles in one call of the artifact.")] = 8,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    anonymous: Anonymous = False,
    threads: Threads = 0,
    trust: Trust = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Embed tiles with a bundle and write embeddings (N, D) and paths (N)."""
    from ..bundle.embedding import embed as run

    with progress_bars() as progress:
        done = run(
            trusted(bundle, trust),
            tiles[0] if len(tiles) == 1 else tiles,
            out=out,
            batch=batch,
            resize=resize.value,
            skip_bad=skip_bad,
            anonymous=anonymous,
            threads=threads,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json(done)
        return
    say_cautions(done["cautions"])
    say_skipped(done["skipped"])
    say(f"{done['file']}: {done['tiles']} embeddings of {done['dim']} numbers, {done['ran_with']}")


def capture(
    tiles: Annotated[
        str,
        typer.Option(
            callback=there, rich_help_panel=TILES, help="Best a pack of 64 tiles; or a folder, or `synthetic:COUNT`."
        ),
    ],
    out: Annotated[Path, typer.Option(rich_help_panel=RESULT, help="The golden set, an .npz file.")],
    model: ModelOption = None,
    model_config: ModelConfig = None,
    weights: Weights = None,
    embedding: EmbeddingOption = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Embed tiles in full precision, on a GPU where there is one, for `edgepath verify --golden` on any machine."""
    from ..checks.golden import capture as run

    with progress_bars() as progress:
        done = run(
            which_model(model, model_config),
            tiles,
            out,
            weights=weights,
            embedding=embedding.value if embedding else None,
            resize=resize.value,
            skip_bad=skip_bad,
            device=device,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json(done)
        return
    say_skipped(done["skipped"])
    say(f"{done['file']}: {done['source']['count']} tiles, {done['weights']['source']}, {done['runtime']}")


def build_pack(
    sources: Annotated[
        list[str], typer.Argument(callback=there, help="Folders of tiles or slides, packs, or `synthetic`.")
    ],
    out: Annotated[Path, typer.Option(rich_help_panel=RESULT, help="Folder of the new pack.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Tiles to select.")] = 512,
    seed: Annotated[
        int, typer.Option(help="Number that starts the selection; the same one selects the same tiles.")
    ] = 0,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    anonymous: Anonymous = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Select a diverse set of tissue tiles and write them, hashed, as a calibration pack."""
    from ..tiles.packs import build_pack as run

    with progress_bars() as progress:
        info = run(
            sources,
            out,
            count,
            seed=seed,
            resize=resize.value,
            skip_bad=skip_bad,
            anonymous=anonymous,
            force=force,
            progress=progress,
        )
    print_pack(info, as_json)


def check_pack(
    pack: Annotated[Path, typer.Argument(help="A calibration pack.")],
    as_json: AsJson = False,
) -> None:
    """Verify a pack: its manifest, its files, every tile's hash."""
    from ..tiles.packs import check_pack as run

    print_pack(run(pack), as_json)


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (
        export,
        distill,
        embed,
    ):
        app.command()(command)
    packs = commands("Build and check calibration packs.")
    for group in (packs, calibrate := commands("Deprecated: see `edgepath pack`.", translate=_said_pack)):
        group.command("build")(build_pack)
        group.command("check")(check_pack)
    app.add_typer(packs, name="pack")
    app.add_typer(calibrate, name="calibrate", hidden=True)
    references = commands("Full-precision embeddings to compare bundles with.")
    references.command("capture")(capture)
    app.add_typer(references, name="reference")


def _said_pack(arguments: list[str]) -> list[str]:
    deprecated("edgepath calibrate", "edgepath pack")
    return arguments
