"""`distill`: the loop that joins teacher, student, views, losses and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from ..machine.hardware import device_name, pick_device
from ..models.catalogue import ModelSpec
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource
from .checkpoint import (
    check_same_options,
    check_same_run,
    load_checkpoint,
    save_checkpoint,
)
from .interrupt import finish_steps
from .loader import Loader, Views, workers_told
from .options import DEFAULT, Options, load_options
from .processes import join_processes, most_memory, wait_for_all
from .run import FIGURES, Distillation, Progress
from .runfolder import (
    Log,
    draw_log,
    prepare_run,
    read_log,
    write_run,
    write_student,
)
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
    chosen = load_options(recipe, options)
    folder = Path(out)
    say = progress or (lambda stage, done, total: None)
    with join_processes(pick_device(device)) as processes:
        if processes.first:
            prepare_run(folder, resume=resume, force=force)
        wait_for_all()
        state = load_checkpoint(folder) if resume else None
        if state is not None:
            check_same_options(folder, state, chosen.to_json())  # before anything is made by other ones
        run = Distillation(teacher, student, chosen, processes, teacher_weights, student_weights)
        source = _open(tiles, run.spec.size, resize, skip_bad, chosen)
        loader = view_loader(source, chosen, rank=processes.rank, world=processes.world)
        run.identity["tiles"] = _tile_facts(source, chosen)["sha256"]
        if state is not None:
            check_same_run(folder, state, run.identity)
            run.restore(state)
        else:
            run.fit_teacher(source, say if processes.first else lambda stage, done, total: None)
        if processes.first:
            facts = {"models": run.facts, "tiles": _flat(_tile_facts(source, chosen)), "options": chosen.to_json()}
            write_run(
                folder, facts | {"processes": {"count": processes.world, "device": device_name(processes.device.type)}}
            )
            if not resume:
                save_checkpoint(folder, run.state())
        alone = processes.world == 1
        with workers_told(), closing(loader.steps(run.step)) as steps, finish_steps(alone) as stopped:
            _loop(run, steps, folder, say, stopped)
        if processes.first:
            write_student(folder, run.ema.tokens.vit, run.spec)
            draw_log(folder)
        wait_for_all()
    done = {"path": str(folder), "student": run.spec.name, "steps": run.step, "tiles": len(source)}
    return done | {"writes": processes.first, "last": read_log(folder)[-1]}


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


def _loop(run: Distillation, steps: Iterator[Views], folder: Path, say: Progress, stopped: Callable[[], bool]) -> None:
    """Train to the last step, or until `stopped`; the first process logs, saves and shows how far it is."""
    options, first = run.options, run.processes.first
    log = Log(folder, run.step) if first else None
    rows: list[dict[str, float]] = []
    before = time.perf_counter()
    waited = 0.0
    while True:
        asked = time.perf_counter()
        data = next(steps, None)
        if data is None:
            return
        waited += time.perf_counter() - asked
        rows.append(run.train(data))
        done, last = run.step, run.step == options.training.steps
        if done % options.run.log_every == 0 or last:
            seconds = time.perf_counter() - before
            if log is not None:
                log.seconds += seconds
                row = _row(rows, done, options.training.batch, seconds, waited, log.seconds)
                log.add(row | {"peak_gb": most_memory(run.processes.device) / 1e9})
            rows, waited, before = [], 0.0, time.perf_counter()
        stop = stopped() and not last
        if first and (done % options.run.checkpoint_every == 0 or last or stop):
            save_checkpoint(folder, run.state())
        if first:
            say("distil", done, options.training.steps)
        if stop:
            raise KeyboardInterrupt


def _row(
    rows: list[dict[str, float]], step: int, batch: int, seconds: float, waited: float, total: float
) -> dict[str, float]:
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in (*FIGURES, "gradient_norm")}
    speed = {"tiles_per_s": len(rows) * batch / seconds, "waiting_share": waited / seconds, "seconds": total}
    return rows[-1] | mean | speed | {"step": step}


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
