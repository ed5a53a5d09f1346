"""`distill`: teacher, student, views, losses and the loop, joined."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TypedDict

from ..machine.hardware import device_name, pick_device
from ..machine.progress import Progress
from ..models.catalogue import ModelSpec
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource
from .loader import Loader
from .loop import begin, open_run, train
from .options import DEFAULT, Options, load_options
from .processes import join_processes, wait_for_all
from .run import Distillation
from .runfolder import COLUMNS, draw_log, read_log, write_student
from .views import make_views


class Distilled(TypedDict):
    """What `distill` returns: `last` is the last row of the log; the process that `writes` wrote it."""

    path: str
    student: str
    steps: int
    tiles: int
    writes: bool
    last: dict[str, float]


def distill(
    teacher: str | ModelSpec,
    student: str | ModelSpec,
    tiles: str | Path,
    out: str | Path,
    *,
    recipe: str = DEFAULT,
    options: Mapping[str, object] | None = None,
    teacher_weights: str | Path | None = None,
    student_weights: str | Path | None = None,
    resize: str = "refuse",
    skip_bad: bool = False,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Distilled:
    """Train a student to see what a frozen teacher sees, and write it to a folder.

    The folder holds `model.safetensors` (the moving average of the student's weights) and `config.json`, so that it
    loads as `weights`; and `run.toml`, `log.csv`, `loss.png` and the last checkpoint. Under torchrun, all processes
    share each batch.

    Args:
        teacher: A name of `edgepath models`, `timm:NAME`, or a `.toml` file that describes a model.
        student: The same, for the student.
        tiles: A folder of tiles, a calibration pack, or `synthetic:COUNT`.
        out: The folder of the run.
        recipe: `recipe`, the built-in settings, or a `.toml` file with those that differ.
        options: Settings to change, as `{"training.steps": 100}`.
        teacher_weights: As `weights` in `export`.
        student_weights: What the student starts from. None: as timm starts it.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        skip_bad: Leave out tiles that cannot be read, and list them in `skipped`.
        device: Where it trains: `auto`, `cpu` or `cuda`.
        resume: Continue from the run's last checkpoint.
        force: Replace an existing output.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        The last row of the log, and where everything is.

    Raises:
        UsageError, RecipeError, WeightsError, TileError: Something cannot be used as given.
        EdgepathError: The loss stopped being finite; it names the step.
    """
    chosen, folder = load_options(recipe, options), Path(out)
    with join_processes(pick_device(device)) as processes:
        first, alone = processes.first, processes.world == 1
        say = progress if progress and first else lambda stage, done, total: None
        state = open_run(folder, chosen.to_json(), resume=resume, force=force, first=first)
        run = Distillation(teacher, student, chosen, processes, teacher_weights, student_weights)
        source = _open(tiles, run.spec.size, resize, skip_bad, chosen)
        loader = view_loader(source, chosen, rank=processes.rank, world=processes.world)
        about = _tile_facts(source, chosen)
        run.identity["tiles"] = str(about["sha256"])
        facts = {"models": run.facts, "tiles": about, "options": chosen.to_json()}
        facts |= {"processes": {"count": processes.world, "device": device_name(run.device.type)}}
        begin(run, state, folder, facts, fit=partial(run.fit_teacher, source, say), first=first)
        views, how = loader.steps(run.step), (chosen.training, chosen.run)
        train(run, views, folder, *how, stage="distil", columns=COLUMNS, say=say, first=first, alone=alone)
        if first:
            write_student(folder, run.ema.tokens.vit, run.spec)
            draw_log(folder)
        wait_for_all()
    last = read_log(folder)[-1]
    return Distilled(
        path=str(folder), student=run.spec.name, steps=run.step, tiles=len(source), writes=first, last=last
    )


def view_loader(source: TileSource, options: Options, *, rank: int = 0, world: int = 1) -> Loader:
    """Return the loader of a run's global and local crops."""
    make = partial(make_views, size=source.size, options=options.views)
    return Loader(
        source,
        lambda tile, rng: make(tile, rng=rng),
        batch=options.training.batch,
        steps=options.training.steps,
        seed=options.training.seed,
        run=options.run,
        rank=rank,
        world=world,
    )


def _open(tiles: str | Path, size: int, resize: str, skip_bad: bool, options: Options) -> TileSource:
    """Open the tiles; where their pixels are hashed, bad ones are found and left out now."""
    source = open_tiles(tiles, size=size, resize=resize, skip_bad=skip_bad)
    if options.run.tile_hash == "pixels":
        source.provenance()
        bad = dict(source.skipped)
        source = source.select([i for i, key in enumerate(source.keys) if key not in bad])
    return source


def _tile_facts(source: TileSource, options: Options) -> Mapping[str, object]:
    if options.run.tile_hash == "pixels":
        return source.provenance()
    import hashlib

    digest = hashlib.sha256("\n".join(source.keys).encode()).hexdigest()
    facts = {"kind": source.kind, "name": source.name, "count": len(source), "sha256": f"names {digest}"}
    return facts | ({"left_out": dict(source.left_out)} if source.left_out else {})
