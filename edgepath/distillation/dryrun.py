"""Does a distillation fit this machine? Both models at full size with random weights, steps on a tiny batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

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


def dry_run(
    teacher: str | ModelSpec,
    student: str | ModelSpec,
    *,
    recipe: str = DEFAULT,
    options: Mapping[str, Any] | None = None,
    tiles: int = 1,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Take steps of exactly that configuration, but for a few synthetic tiles a process; return what they took.

    Models have random weights, so nothing is downloaded and no access is needed. Two steps take `tiles` tiles a
    process, a third one twice as many: `tile_bytes` is by how much its peak memory is larger, for each tile, and the
    estimate for the recipe's batch follows from it (where no difference is seen, all that is not fixed counts as
    theirs). `peak_bytes` is the most of all: of the device, or on a CPU of this process. `fixed_bytes` are the models,
    gradients and the optimizer's state.
    """
    whole = load_options(recipe, options)
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
        share, took = whole.training.batch / processes.world, seconds[1]
        return _described(run, chosen) | {
            "device": device_name(processes.device.type),
            "processes": processes.world,
            "tiles_a_process": tiles,
            "loss": loss,
            "step_seconds": round(took, 3),
            "tiles_per_s": round(tiles * processes.world / took, 4),
            "peak_bytes": max(peaks),
            "fixed_bytes": fixed,
            "tile_bytes": round(a_tile),
            "estimate": {
                "batch": whole.training.batch,
                "process_bytes": round(max(peaks[0], peaks[2] + a_tile * (share - tiles))),
                "steps": whole.training.steps,
                "days": round(whole.training.steps * share * took / tiles / 86400, 1),
            },
        }


def _described(run: Distillation, chosen: Options) -> dict[str, Any]:
    """Say what was run: models, their sizes, precision, crops."""
    return {
        "teacher": run.facts["teacher"]["name"],
        "student": run.spec.name,
        "parameters": {
            "teacher": _parameters(run.teacher.tokens.vit),
            "student": _parameters(run.student.tokens.vit),
            "student heads": _parameters(run.student.cls_head) + _parameters(run.student.patch_head),
        },
        "precision": str(run.precision).removeprefix("torch."),
        "crops_a_tile": {"global": chosen.views.global_count, "local": chosen.views.local_count},
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


def to_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return what `dry_run` found as rows of a name and a value, for people."""
    millions = {name: f"{count / 1e6:.1f} M parameters" for name, count in found["parameters"].items()}
    crops, estimate = found["crops_a_tile"], found["estimate"]
    views = f"{crops['global']} global and {crops['local']} local crops each"
    speed = f"{found['tiles_per_s']:.3g} tiles/s, loss {found['loss']:.3f}"
    fixed, tile, peak, needed = (
        f"{size / 2**30:.2f} GiB"
        for size in (found["fixed_bytes"], found["tile_bytes"], found["peak_bytes"], estimate["process_bytes"])
    )
    return [
        ["teacher", f"{found['teacher']}, {millions['teacher']}, random weights"],
        ["student", f"{found['student']}, {millions['student']}; heads {millions['student heads']}"],
        ["run on", f"{found['device']}, {found['processes']} process(es), {found['precision']}"],
        ["a step", f"{found['tiles_a_process']} tile(s) a process, {views}"],
        ["took", f"{found['step_seconds']:.2f} s (the second step), {speed}"],
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
