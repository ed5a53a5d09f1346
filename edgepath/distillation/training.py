"""`distill`: teacher, student, views, losses and the loop, joined."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

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


def distill(
    teacher: str | ModelSpec,
    student: str | ModelSpec,
    tiles: str | Path,
    out: str | Path,
    *,
    recipe: str = DEFAULT,
    options: Mapping[str, Any] | None = None,
    teacher_weights: str | Path | None = None,
    student_weights: str | Path | None = None,
    resize: str = "refuse",
    skip_bad: bool = False,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a student to see what a frozen teacher sees, and write it to the folder `out`.

    `recipe` is a shipped recipe's name or a TOML file, `options` changes numbers of it ({"training.steps": 100}).
    The student starts as timm starts it, or from `student_weights`. The folder holds `model.safetensors` (the moving
    average of the student's weights) and `config.json`, so that it loads as `weights`, `run.toml`, `log.csv`,
    `loss.png` and the last checkpoint, from which `resume` goes on. Under torchrun, all processes share each batch.

    Returns the last row of the log and where everything is. Raises UsageError, RecipeError, WeightsError or TileError
    for what cannot be used, EdgepathError naming the step where the loss stopped being finite.
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
        run.identity["tiles"] = about["sha256"]
        facts = {"models": run.facts, "tiles": _flat(about), "options": chosen.to_json()}
        facts |= {"processes": {"count": processes.world, "device": device_name(run.device.type)}}
        begin(run, state, folder, facts, fit=partial(run.fit_teacher, source, say), first=first)
        views, how = loader.steps(run.step), (chosen.training, chosen.run)
        train(run, views, folder, *how, stage="distil", columns=COLUMNS, say=say, first=first, alone=alone)
        if first:
            write_student(folder, run.ema.tokens.vit, run.spec)
            draw_log(folder)
        wait_for_all()
    done = {"path": str(folder), "student": run.spec.name, "steps": run.step, "tiles": len(source)}
    return done | {"writes": first, "last": read_log(folder)[-1]}


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


def _tile_facts(source: TileSource, options: Options) -> dict[str, Any]:
    if options.run.tile_hash == "pixels":
        return source.provenance()
    import hashlib

    digest = hashlib.sha256("\n".join(source.keys).encode()).hexdigest()
    return {"kind": source.kind, "name": source.name, "count": len(source), "sha256": f"names {digest}"}


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if value is not None}
