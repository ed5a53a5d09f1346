"""Does a distillation fit this machine? Both models at full size with random weights, steps on a tiny batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TypedDict

import torch

from ..machine.hardware import device_name, pick_device
from ..machine.progress import Progress, silent
from ..models.catalogue import ModelSpec
from ..tiles.opening import open_tiles
from .loader import Views
from .options import DEFAULT, Options, load_options
from .processes import forget_most_memory, join_processes, most_memory
from .run import Distillation
from .training import view_loader


class _Models(TypedDict):
    teacher: str
    student: str
    parameters: dict[str, int]
    precision: str
    crops_a_tile: dict[str, int]
    device: str
    processes: int


class Estimate(TypedDict):
    """What the recipe's batch would take: bytes of a process, and days."""

    batch: int
    process_bytes: int
    steps: int
    days: float


class DryRun(_Models):
    """What `dry_run` found: what was run and on what, what a step took, and what a whole run would take."""

    tiles_a_process: int
    loss: float
    step_seconds: float
    tiles_per_s: float
    peak_bytes: int
    fixed_bytes: int
    tile_bytes: int
    estimate: Estimate


def dry_run(
    teacher: str | ModelSpec,
    student: str | ModelSpec,
    *,
    recipe: str = DEFAULT,
    options: Mapping[str, object] | None = None,
    tiles: int = 1,
    device: str = "auto",
    progress: Progress | None = None,
) -> DryRun:
    """Take steps of exactly that configuration, but for a few synthetic tiles a process; return what they took.

    Models have random weights, so nothing is downloaded and no access is needed. Two steps take `tiles` tiles a
    process, a third one twice as many: `tile_bytes` is by how much its peak memory is larger, for each tile, and the
    estimate for the recipe's batch follows from it (where no difference is seen, all that is not fixed counts as
    theirs). `peak_bytes` is the most of all: of the device, or on a CPU of this process. `fixed_bytes` are the models,
    gradients and the optimizer's state.
    """
    full = load_options(recipe, options)
    say = progress or silent
    with join_processes(pick_device(device)) as processes:
        batch = 2 * tiles * processes.world
        small = {"training.batch": batch, "training.steps": 3, "heads.fit_tiles": max(2, tiles), "run.workers": 0}
        chosen = load_options(recipe, {**(options or {}), **small})
        run = Distillation(teacher, student, chosen, processes, "random", None)
        source = open_tiles(f"synthetic:{batch}", size=run.spec.size)
        run.fit_teacher(source, say)
        views = iter(view_loader(source, chosen, rank=processes.rank, world=processes.world).steps(0))
        seconds, peaks, loss = _three_steps(run, views, tiles, say)
        fixed, slope = _fixed_bytes(run), (peaks[3] - peaks[2]) / tiles
        # Memory that is kept from before can hide the difference: then all that is not fixed counts as the tiles'.
        a_tile = slope if slope > 0 else max(0, max(peaks) - fixed) / (2 * tiles)
        share, took = full.training.batch / processes.world, seconds[1]
        return {
            **_described(run, chosen),
            "tiles_a_process": tiles,
            "loss": loss,
            "step_seconds": round(took, 3),
            "tiles_per_s": round(tiles * processes.world / took, 4),
            "peak_bytes": max(peaks),
            "fixed_bytes": fixed,
            "tile_bytes": round(a_tile),
            "estimate": {
                "batch": full.training.batch,
                "process_bytes": round(max(peaks[0], peaks[2] + a_tile * (share - tiles))),
                "steps": full.training.steps,
                "days": round(full.training.steps * share * took / tiles / 86400, 1),
            },
        }


def _described(run: Distillation, chosen: Options) -> _Models:
    """Say what was run, and on what: models, their sizes, precision, crops, device."""
    return {
        "teacher": run.identity["teacher"],
        "student": run.spec.name,
        "parameters": {
            "teacher": _parameters(run.teacher.tokens.vit),
            "student": _parameters(run.student.tokens.vit),
            "student heads": _parameters(run.student.cls_head) + _parameters(run.student.patch_head),
        },
        "precision": str(run.precision).removeprefix("torch."),
        "crops_a_tile": {"global": chosen.views.global_count, "local": chosen.views.local_count},
        "device": device_name(run.device.type),
        "processes": run.processes.world,
    }


def _three_steps(
    run: Distillation, views: Iterator[Views], tiles: int, say: Progress
) -> tuple[list[float], list[int], float]:
    """Return what each step took in seconds, the most memory before and in each, in bytes, and the last loss."""
    seconds, peaks, figures = [], [most_memory(run.device)], {"loss": 0.0}
    for number, count in enumerate((tiles, tiles, 2 * tiles), 1):  # the first one also allocates
        some = tuple(crops[:, :count] for crops in next(views))
        forget_most_memory(run.device)
        start = time.perf_counter()
        figures, _ = run.train(some)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        peaks.append(most_memory(run.device))
        say("dry run", number, 3)
    return seconds, peaks, figures["loss"]


def to_rows(measured: DryRun) -> list[list[str]]:
    """Return what `dry_run` found as rows of a name and a value, for people."""
    millions = {name: f"{count / 1e6:.1f} M parameters" for name, count in measured["parameters"].items()}
    crops, estimate = measured["crops_a_tile"], measured["estimate"]
    views = f"{crops['global']} global and {crops['local']} local crops each"
    speed = f"{measured['tiles_per_s']:.3g} tiles/s, loss {measured['loss']:.3f}"
    fixed, tile, peak, needed = (
        f"{size / 2**30:.2f} GiB"
        for size in (measured["fixed_bytes"], measured["tile_bytes"], measured["peak_bytes"], estimate["process_bytes"])
    )
    return [
        ["teacher", f"{measured['teacher']}, {millions['teacher']}, random weights"],
        ["student", f"{measured['student']}, {millions['student']}; heads {millions['student heads']}"],
        ["run on", f"{measured['device']}, {measured['processes']} process(es), {measured['precision']}"],
        ["a step", f"{measured['tiles_a_process']} tile(s) a process, {views}"],
        ["took", f"{measured['step_seconds']:.2f} s (the second step), {speed}"],
        ["peak memory", f"{peak}; models, gradients and moments are {fixed}, a tile more takes {tile}"],
        ["estimate", f"batch {estimate['batch']}: {needed} a process"],
        ["", f"{estimate['steps']} steps: {estimate['days']:.3g} days at this speed"],
    ]


def _parameters(module: torch.nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _fixed_bytes(run: Distillation) -> int:
    """Return the bytes that stay from step to step: weights, average, gradients, moments."""
    held = [*run.teacher.state_dict().values(), *run.ema.state_dict().values(), *run.student.state_dict().values()]
    held += [value.grad for value in run.student.parameters() if value.grad is not None]
    held += [v for state in run.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return sum(value.numel() * value.element_size() for value in held)
