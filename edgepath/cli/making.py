"""Commands that make something: bundles, students, packs, files of embeddings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..reports.console import (
    print_json,
    print_pack,
    print_report,
    print_table,
    progress_bars,
    say_cautions,
    say_how_to_go_on,
    say_skipped,
    verdict,
)
from ..reports.table import table
from .app import commands
from .options import (
    AsJson,
    BundleFolder,
    Device,
    EmbeddingOption,
    Force,
    Model,
    Outputs,
    Resize,
    ResizeOption,
    SkipBad,
    Threads,
    Weights,
)


def export(
    target: Annotated[str, typer.Option(help="A name of `edgepath targets`, or a recipe file.")],
    model: Model = "demo",
    weights: Weights = None,
    calibration: Annotated[
        str, typer.Option(help="A folder of tiles, a calibration pack, or `synthetic`.")
    ] = "synthetic",
    calibration_tiles: Annotated[int, typer.Option(min=1, help="Tiles to calibrate on, at most.")] = 128,
    embedding: EmbeddingOption = None,
    outputs: Annotated[Outputs, typer.Option(help="`tokens` keeps the patch tokens too.")] = Outputs.embedding,
    qad: Annotated[int, typer.Option(min=0, help="Steps of quantization-aware distillation (INT8 targets).")] = 0,
    speed: Annotated[
        bool, typer.Option("--speed", help="Refuse INT8 that is slower here than full precision in the same runtime.")
    ] = False,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    out: Annotated[Path, typer.Option(help="Folder for bundles.")] = Path("build"),
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn weights into a checked bundle <out>/<model>-<target>/."""
    from ..exporting import export as run

    with progress_bars() as progress:
        done = run(
            target,
            model=model,
            weights=weights,
            calibration=calibration,
            calibration_tiles=calibration_tiles,
            embedding=embedding.value if embedding else None,
            tokens=outputs is Outputs.tokens,
            qad=qad,
            speed=speed,
            resize=resize.value,
            skip_bad=skip_bad,
            out=out,
            force=force,
            device=device,
            progress=progress,
        )
    if as_json:
        print_json(done.report | {"path": str(done.bundle.path)})
    else:
        print_report(done.report)
        print(f"{done.bundle.path}: {verdict(done.passed)}{'' if done.passed else '; it is kept, and marked so'}")
    raise typer.Exit(0 if done.passed else 1)


def distill(
    teacher: Model,
    student: Model,
    tiles: Annotated[str, typer.Option(help="A folder of tiles, a calibration pack, or `synthetic:COUNT`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    recipe: Annotated[str, typer.Option(help="`recipe`, or a TOML file with what differs.")] = "recipe",
    change: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, as in training.steps=200.")] = None,
    teacher_weights: Annotated[str, typer.Option(help="A file, a hub snapshot folder, or `random`.")] = "",
    student_weights: Annotated[str, typer.Option(help="What the student starts from; default: untrained.")] = "",
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="A few steps, random weights: does it fit, how fast?")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train a small student to see what a large frozen teacher sees; several GPUs: with torchrun."""
    from ..distillation.options import parse_changes
    from ..distillation.training import distill as run

    changes = parse_changes(change or [])
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
        print(f"{out}: {done['steps']} steps, loss {done['last']['loss']:.3f}; use it with --weights {out}")


def _try_out(teacher: str, student: str, recipe: str, changes: Mapping[str, Any], device: str, as_json: bool) -> None:
    from ..distillation.dryrun import dry_run, to_rows

    with progress_bars() as progress:
        found = dry_run(teacher, student, recipe=recipe, options=changes, device=device, progress=progress)
    if as_json:
        print_json(found)
    else:
        print_table(table(["", ""], to_rows(found)))


def embed(
    bundle: BundleFolder,
    tiles: Annotated[list[str], typer.Argument(help="A folder, a pack, tile files, or `synthetic`.")],
    out: Annotated[Path, typer.Option(help="Output file: .npz, .h5 or .parquet.")],
    batch: Annotated[int, typer.Option(min=1, help="Tiles a call.")] = 8,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Embed tiles with a bundle and write embeddings (N, D) and paths (N)."""
    from ..bundle.embedding import embed as run

    with progress_bars() as progress:
        done = run(
            bundle,
            tiles[0] if len(tiles) == 1 else tiles,
            out=out,
            batch=batch,
            resize=resize.value,
            skip_bad=skip_bad,
            threads=threads,
            force=force,
            progress=progress,
        )
    if as_json:
        print_json(done)
        return
    say_cautions(done["cautions"])
    say_skipped(done["skipped"])
    print(f"{done['file']}: {done['tiles']} embeddings of {done['dim']} numbers, {done['ran_with']}")


def capture(
    model: Model,
    tiles: Annotated[str, typer.Option(help="Best a pack of 64 tiles; or a folder, or `synthetic:COUNT`.")],
    out: Annotated[Path, typer.Option(help="The golden set, an .npz file.")],
    weights: Weights = None,
    embedding: EmbeddingOption = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Embed tiles in full precision, on a GPU where there is one, for `edgepath verify --golden` elsewhere."""
    from ..checks.golden import capture as run

    with progress_bars() as progress:
        done = run(
            model,
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
    print(f"{done['file']}: {done['source']['count']} tiles, {done['weights']['source']}, {done['runtime']}")


def build_pack(
    sources: Annotated[list[str], typer.Argument(help="Folders of tiles, packs, or `synthetic`.")],
    out: Annotated[Path, typer.Option(help="Folder of the new pack.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Tiles to select.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the selection.")] = 0,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
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
    packs.command("build")(build_pack)
    packs.command("check")(check_pack)
    app.add_typer(packs, name="calibrate")
    references = commands("Full-precision embeddings to hold bundles against.")
    references.command("capture")(capture)
    app.add_typer(references, name="reference")
