"""The command line: parse, call, print. Results go to stdout, talk and progress to stderr.

Exit codes: 0 passed, 1 a gate failed, 2 could not run.
"""

from __future__ import annotations

import signal
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from .console import (
    print_json,
    print_pack,
    print_report,
    print_table,
    print_verification,
    progress_bars,
    say_cautions,
    say_skipped,
    verdict,
)
from .errors import EdgepathError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Pathology vision transformers on the edge: export, quantize, and measure what that changed.",
    epilog="Exit codes: 0 passed, 1 a gate failed, 2 could not run. Results go to stdout, everything else to stderr.",
)
packs_app = typer.Typer(no_args_is_help=True, help="Build and check calibration packs.")
app.add_typer(packs_app, name="calibrate")

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out tiles that cannot be read, and list them.")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="CPU threads of the runtime; 0 = its own choice.")]


class Resize(str, Enum):
    """What to do with tiles of another size."""

    refuse = "refuse"
    squash = "squash"
    crop = "crop"


class Embedding(str, Enum):
    """What stands for a tile."""

    cls = "cls"
    cls_mean = "cls+mean"


class Outputs(str, Enum):
    """What the artifact returns."""

    embedding = "embedding"
    tokens = "tokens"


ResizeOption = Annotated[Resize, typer.Option(help="Tiles of another size: refuse, squash, or crop the centre.")]


@app.command()
def export(
    target: Annotated[str, typer.Option(help="A name of `edgepath targets`, or a recipe file.")],
    model: Annotated[str, typer.Option(help="A name of `edgepath models`, or timm:NAME.")] = "demo",
    weights: Annotated[str | None, typer.Option(help="A weights file, a hub snapshot folder, or `random`.")] = None,
    calibration: Annotated[
        str, typer.Option(help="A folder of tiles, a calibration pack, or `synthetic`.")
    ] = "synthetic",
    calibration_tiles: Annotated[int, typer.Option(min=1, help="Tiles to calibrate on, at most.")] = 128,
    embedding: Annotated[Embedding | None, typer.Option(help="Default: the model's own.")] = None,
    outputs: Annotated[Outputs, typer.Option(help="`tokens` keeps the patch tokens too.")] = Outputs.embedding,
    qad: Annotated[int, typer.Option(min=0, help="Steps of quantization-aware distillation (INT8 targets).")] = 0,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    out: Annotated[Path, typer.Option(help="Folder for bundles.")] = Path("build"),
    device: Annotated[str, typer.Option(help="Where reference and calibration run: auto, cpu, cuda.")] = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Turn weights into a checked bundle <out>/<model>-<target>/."""
    from .exporting import export as run

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
        print(f"{done.bundle.path}: {verdict(done.passed)}")
    raise typer.Exit(0 if done.passed else 1)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
    tiles: Annotated[str | None, typer.Option(help="A folder or pack of other tiles, or `synthetic`.")] = None,
    weights: Annotated[str | None, typer.Option(help="The full-precision weights, where they were a file.")] = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    device: Annotated[str, typer.Option(help="Where the reference runs: auto, cpu, cuda.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Check a bundle's hashes, run its artifact and hold its drift against the recipe's gates."""
    from .verification import verify as run

    with progress_bars() as progress:
        result = run(
            bundle,
            tiles=tiles,
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


@app.command()
def compare(
    bundles: Annotated[list[Path], typer.Argument(help="Two or more bundle folders of one model.")],
    tiles: Annotated[str | None, typer.Option(help="A folder or pack of tiles; default: golden tiles.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a heat map to this PNG.")] = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    threads: Threads = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing picture.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show whether bundles of one model agree, tile by tile: does a tile find its twin made elsewhere?"""
    from .comparison import HEADER, pair_rows
    from .comparison import compare as run

    if plot is not None:
        from .heatmap import check_plot

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
        from .heatmap import draw_pairs

        draw_pairs(result, plot)
    if as_json:
        print_json(result)
        return
    say_cautions([*result["cautions"], *result["notes"]])
    say_skipped(result["skipped"])
    print(f"{result['source']['count']} tiles of {result['source']['name']}")
    print_table(HEADER, pair_rows(result))
    for name, runtime in result["ran_with"].items():
        print(f"{name}: {runtime}")
    print(f"noise floor of the programs themselves: 1 - cosine = {result['noise_floor']:.1e}")


@app.command()
def embed(
    bundle: Annotated[Path, typer.Argument(help="A bundle folder.")],
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
    from .embedding import embed as run

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


@app.command()
def lint(
    path: Annotated[Path, typer.Argument(help="An ONNX file, or a bundle that holds model.onnx.")],
    as_json: AsJson = False,
) -> None:
    """Check a quantized ONNX graph for what TensorRT and other runtimes stumble over, without any of them."""
    from .doctor import require
    from .lint import HEADER, finding_rows
    from .lint import lint as run

    require("onnx", "export")
    findings = run(path)
    errors = sum(finding.level == "error" for finding in findings)
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        if findings:
            print_table(HEADER, finding_rows(findings))
        print(f"{path}: {errors} errors, {len(findings) - errors} warnings")
    raise typer.Exit(1 if errors else 0)


@app.command()
def distill(
    teacher: Annotated[str, typer.Option(help="A name of `edgepath models`, or timm:NAME.")],
    student: Annotated[str, typer.Option(help="A name of `edgepath models`, or timm:NAME.")],
    tiles: Annotated[str, typer.Option(help="A folder of tiles, a calibration pack, or `synthetic:COUNT`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    recipe: Annotated[str, typer.Option(help="`recipe`, `demo`, or a TOML file with what differs.")] = "recipe",
    change: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, as in training.steps=200.")] = None,
    teacher_weights: Annotated[str, typer.Option(help="A file, a hub snapshot folder, or `random`.")] = "",
    student_weights: Annotated[str, typer.Option(help="What the student starts from; default: untrained.")] = "",
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="One step, random weights: does it fit, how fast?")
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Train a small student to see what a large frozen teacher sees; several GPUs: with torchrun."""
    from .distillation.options import parse_changes
    from .distillation.training import distill as run

    if dry_run:
        from .distillation.dryrun import dry_run as try_out
        from .distillation.dryrun import to_rows

        with progress_bars() as progress:
            changes = parse_changes(change or [])
            found = try_out(teacher, student, recipe=recipe, options=changes, device=device, progress=progress)
        if as_json:
            print_json(found)
        else:
            print_table(["", ""], to_rows(found))
        return
    with progress_bars() as progress:
        done = run(
            teacher,
            student,
            tiles,
            out,
            recipe=recipe,
            options=parse_changes(change or []),
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


@app.command()
def targets(as_json: AsJson = False) -> None:
    """List what can be built."""
    from .recipe import recipes

    known = recipes()
    if as_json:
        print_json([recipe.to_json() for recipe in known.values()])
        return
    rows = [[r.target, r.precision.linear, r.precision.other, r.checked_with, r.summary] for r in known.values()]
    print_table(["target", "linears", "rest", "checked with", "what"], rows)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models that are known by name; timm:NAME takes any other timm vision transformer."""
    from .models import model_specs

    specs = model_specs()
    if as_json:
        print_json([spec.to_json() for spec in specs])
        return
    rows = [[s.name, s.embedding, s.hub or "-", s.licence, s.summary] for s in specs]
    print_table(["model", "embedding", "hub", "licence", "what"], rows)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show which runtimes, extras and devices are here, and what to install for the rest."""
    from .doctor import diagnose

    found = diagnose()
    if as_json:
        print_json(found.to_json())
        return
    print_table(["", ""], [[name, value] for name, value in found.machine_rows()])
    print_table(["what", "here", "to get it"], found.rows())


@packs_app.command("build")
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
    from .packs import build_pack as run

    with progress_bars() as progress:
        info = run(
            sources,
            out,
            count,
            seed=seed,
            resize=resize.value,
            skip_bad=skip_bad,
            force=force,
            progress=lambda done, total: progress("select", done, total),
        )
    print_pack(info, as_json)


@packs_app.command("check")
def check_pack(
    pack: Annotated[Path, typer.Argument(help="A calibration pack.")],
    as_json: AsJson = False,
) -> None:
    """Verify a pack: its manifest, its files, every tile's hash."""
    from .packs import check_pack as run

    print_pack(run(pack), as_json)


def main() -> None:
    """Entry point: errors a user can cause are one line and exit code 2; a bug keeps its traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except EdgepathError as error:
        typer.echo(f"edgepath: {error}", err=True)
        sys.exit(2)
