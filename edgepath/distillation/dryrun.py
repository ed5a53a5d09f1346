"""Does a distillation fit this machine? Both models at full size with random weights, one step on a tiny batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from ..backends.reference import device_name
from ..models import ModelSpec
from ..reference import pick_device
from ..tiles import open_tiles
from .options import DEFAULT, load_options
from .processes import join_processes, most_memory
from .run import Distillation, Progress
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
    """Take one step of exactly that configuration, but for `tiles` synthetic tiles a process; return what it took.

    Models have random weights, so nothing is downloaded and no access is needed. `peak_bytes` is measured: of the
    device, or on a CPU of this process. `fixed_bytes` are the models, gradients and the optimizer's state; what is left
    of the peak is taken as what the tiles need, from which the estimate for the recipe's batch follows.
    """
    whole = load_options(recipe, options)
    say = progress or (lambda stage, done, total: None)
    with join_processes(pick_device(device)) as processes:
        small = {"training.batch": tiles * processes.world, "training.steps": 2, "heads.fit_tiles": max(2, tiles)}
        small["run.workers"] = 0
        chosen = load_options(recipe, {**(options or {}), **small})
        run = Distillation(teacher, student, chosen, processes, "random", None)
        source = open_tiles(f"synthetic:{max(2, tiles) * processes.world}", size=run.spec.size)
        run.fit_teacher(source, say)
        steps = iter(view_loader(source, chosen, rank=processes.rank, world=processes.world).steps(0))
        seconds = []
        for number in (1, 2):  # the first one also allocates
            views = next(steps)
            start = time.perf_counter()
            figures = run.train(views)
            if processes.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
            say("dry run", number, 2)
        fixed, peak = _fixed_bytes(run), most_memory(processes.device)
        a_tile = max(0, peak - fixed) / tiles
        share = whole.training.batch / processes.world
        return {
            "teacher": run.facts["teacher"]["name"],
            "student": run.spec.name,
            "parameters": {
                "teacher": _parameters(run.teacher.tokens.vit),
                "student": _parameters(run.student.tokens.vit),
                "student heads": _parameters(run.student.cls_head) + _parameters(run.student.patch_head),
            },
            "device": device_name(processes.device.type),
            "processes": processes.world,
            "precision": str(run.precision).removeprefix("torch."),
            "tiles_a_process": tiles,
            "crops_a_tile": {"global": chosen.views.global_count, "local": chosen.views.local_count},
            "loss": figures["loss"],
            "step_seconds": round(seconds[-1], 3),
            "tiles_per_s": round(tiles * processes.world / seconds[-1], 4),
            "peak_bytes": peak,
            "fixed_bytes": fixed,
            "estimate": {
                "batch": whole.training.batch,
                "process_bytes": round(fixed + a_tile * share),
                "steps": whole.training.steps,
                "days": round(whole.training.steps * share * seconds[-1] / tiles / 86400, 1),
            },
        }


def to_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return what `dry_run` found as rows of a name and a value, for people."""
    millions = {name: f"{count / 1e6:.1f} M parameters" for name, count in found["parameters"].items()}
    crops, estimate = found["crops_a_tile"], found["estimate"]
    views = f"{crops['global']} global and {crops['local']} local crops each"
    speed = f"{found['tiles_per_s']:.3g} tiles/s, loss {found['loss']:.3f}"
    fixed, peak, needed = (
        f"{size / 2**30:.2f} GiB" for size in (found["fixed_bytes"], found["peak_bytes"], estimate["process_bytes"])
    )
    return [
        ["teacher", f"{found['teacher']}, {millions['teacher']}, random weights"],
        ["student", f"{found['student']}, {millions['student']}; heads {millions['student heads']}"],
        ["run on", f"{found['device']}, {found['processes']} process(es), {found['precision']}"],
        ["one step", f"{found['tiles_a_process']} tile(s) a process, {views}"],
        ["took", f"{found['step_seconds']:.2f} s (the second step), {speed}"],
        ["peak memory", f"{peak}, {fixed} of it whatever the batch"],
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
