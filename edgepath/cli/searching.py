"""The command that finds a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from ..reports.console import print_json, print_table, progress_bars, say, say_cautions, say_how_to_go_on
from .app import RESULT, TILES
from .options import (
    AsJson,
    DemoModel,
    Device,
    EmbeddingOption,
    Force,
    ModelConfig,
    Plot,
    Resize,
    ResizeOption,
    SkipBad,
    Weights,
    there,
    which_model,
)


def search(
    target: Annotated[str, typer.Option(help="An INT8 target, or a recipe file.")],
    budget: Annotated[
        list[str],
        typer.Option(
            help="Least cosine of the artifact to full precision: cosine_mean=VALUE or cosine_p01=VALUE; repeatable."
        ),
    ],
    out: Annotated[Path, typer.Option(rich_help_panel=RESULT, help="The recipe to write, a .toml file.")],
    model: DemoModel = None,
    model_config: ModelConfig = None,
    weights: Weights = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            callback=there, rich_help_panel=TILES, help="Tiles to calibrate on: a folder, a pack, or `synthetic:COUNT`."
        ),
    ] = None,
    calibration_tiles: Annotated[
        int, typer.Option(min=1, rich_help_panel=TILES, help="Tiles to calibrate on, at most.")
    ] = 128,
    embedding: EmbeddingOption = None,
    plot: Plot = None,
    resize: ResizeOption = Resize.refuse,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Find which layers to leave out of INT8 so that the artifact's drift meets a budget, and write the recipe."""
    from ..reports.plots import check_plot
    from ..reports.tables.checks import point_table
    from ..searching import parse_budget
    from ..searching import search as run

    wanted = parse_budget(budget)
    check_plot(plot, [], force=force)
    with progress_bars() as progress, say_how_to_go_on(out.with_name(f"{out.name}.search.json"), "the same command"):
        done = run(
            target,
            wanted,
            out,
            model=which_model(model, model_config, "demo"),
            weights=weights,
            calibration=calibration,
            calibration_tiles=calibration_tiles,
            embedding=embedding.value if embedding else None,
            resize=resize.value,
            skip_bad=skip_bad,
            force=force,
            device=device,
            progress=progress,
        )
    if plot is not None:
        from ..reports.drawings import draw_search

        draw_search(done, plot)
    if as_json:
        print_json(done)
        return
    print_table(point_table(done))
    say(f"artifacts run with {done['ran_with']}" if done["ran_with"] else "artifacts not run here")
    say_cautions(done["notes"])
    for name in done["kept"]:
        say(f"kept in floating point: {name}")
    kept = f"{len(done['kept'])} of {len(done['layers'])} linear layers kept in floating point"
    say(f"{out}: {kept}; edgepath export --target {out}")


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(search)
