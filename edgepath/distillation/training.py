"""`distill`: the loop that joins teacher, student, views, losses and checkpoints."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import EdgepathError
from ..models import ModelSpec, find_model
from ..reference import pick_device
from ..tiles import TileSource, open_tiles
from ..weights import load_model
from .checkpoint import check_same_run, load_checkpoint, save_checkpoint
from .loader import Loader, Views
from .losses import MeanCenter, dino_loss, ibot_loss, sinkhorn
from .networks import Student, Teacher, build_student, check_pair, optimizer_groups
from .options import DEFAULT, Options, load_options
from .plot import draw_log
from .processes import Processes, from_first, join_processes, sum_over_processes, wait_for_all
from .runfolder import PLOT, Log, prepare_run, read_log, write_run, write_student
from .schedules import cosine, linear
from .views import make_views

Progress = Callable[[str, int, int], None]
_FIGURES = ("loss", "dino", "ibot", "cls_agreement", "patch_agreement")


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
        run = _Run(teacher, student, chosen, processes, teacher_weights, student_weights)
        source = _open(tiles, run.spec.size, resize, skip_bad, chosen)
        loader = view_loader(source, chosen, rank=processes.rank, world=processes.world)
        run.identity["tiles"] = _tile_facts(source, chosen)["sha256"]
        if resume:
            state = load_checkpoint(folder)
            check_same_run(folder, state, run.identity, chosen.to_json())
            run.restore(state)
        else:
            run.fit_teacher(source, say if processes.first else lambda stage, done, total: None)
        if processes.first:
            facts = {"models": run.facts, "tiles": _flat(_tile_facts(source, chosen)), "options": chosen.to_json()}
            write_run(folder, facts | {"processes": {"count": processes.world, "device": processes.device.type}})
            if not resume:
                save_checkpoint(folder, run.state())
        _loop(run, loader, folder, say)
        if processes.first:
            write_student(folder, run.ema.tokens.vit, run.spec)
            draw_log(read_log(folder), folder / PLOT)
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


class _Run:
    """Models, optimizer and centers of a run, and the number of steps that are done."""

    def __init__(
        self,
        teacher: str | ModelSpec,
        student: str | ModelSpec,
        options: Options,
        processes: Processes,
        teacher_weights: str | Path | None,
        student_weights: str | Path | None,
    ) -> None:
        self.options, self.processes, self.step = options, processes, 0
        torch.manual_seed(options.training.seed)
        vit, self.spec, start = _start(student, student_weights)
        frozen, teacher_spec, weights = load_model(_find(teacher), teacher_weights)
        check_pair(frozen, teacher_spec, vit, self.spec, options.views.local_size)
        self.identity = {
            "teacher": teacher_spec.name,
            "teacher weights": weights.sha256,
            "student": self.spec.name,
            "student start": start,
        }
        self.facts = {
            "teacher": {"name": teacher_spec.name, **weights.to_json()},
            "student": {"name": self.spec.name, "start": start},
        }
        device = processes.device
        self.teacher = Teacher(frozen, teacher_spec, options).to(device)
        self.student = Student(vit, self.spec, options).to(device).train()
        from_first(self.student)
        self.ema = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.forward: nn.Module = self.student
        if processes.world > 1:
            ids = [device.index] if device.type == "cuda" else None
            self.forward = DistributedDataParallel(self.student, device_ids=ids)
        momentum = options.loss.center_momentum
        self.centers = nn.ModuleDict(
            {
                "cls": MeanCenter(options.heads.cls_prototypes, momentum),
                "patch": MeanCenter(options.heads.patch_prototypes, momentum),
            }
        ).to(device)
        self.optimizer = torch.optim.AdamW(optimizer_groups(self.student))
        wanted = options.training.precision
        bf16 = wanted == "bf16" or (wanted == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
        self.precision = torch.bfloat16 if bf16 else torch.float32

    def fit_teacher(self, source: TileSource, say: Progress) -> None:
        """Fit the teacher's heads on tiles spread evenly over the source, without augmentation."""
        count = min(self.options.heads.fit_tiles, len(source))
        chosen = source.select(np.linspace(0, len(source) - 1, count).astype(int).tolist())
        parts: list[tuple[Tensor, Tensor]] = []
        for batch in chosen.batches(16):
            with torch.no_grad(), self._autocast():
                cls, patches = self.teacher.tokens(torch.from_numpy(batch.pixels).to(self.processes.device))
            parts.append((cls.float(), patches.flatten(0, 1).float()))
            say("fit teacher", sum(len(part[0]) for part in parts), count)
        from_tokens = self.options.heads.teacher_prototypes == "tokens"
        self.teacher.cls_head.fit(torch.cat([part[0] for part in parts]), from_tokens, seed=3)
        self.teacher.patch_head.fit(torch.cat([part[1] for part in parts]), from_tokens, seed=4)
        from_first(self.teacher.cls_head)
        from_first(self.teacher.patch_head)

    def train(self, data: Views) -> dict[str, float]:
        """Take one step, and return its figures, the mean over all processes."""
        views, count = data[0].shape[:2]
        large, small = (torch.from_numpy(crops).to(self.processes.device).flatten(0, 1) for crops in data)
        rates = self._schedules()
        loss, options = self.options.loss, self.options.training
        with self._autocast():
            seen = self.teacher(large)
            cls_logits, patch_logits = self.forward(large, small)
        temperature = rates["teacher_temperature"]
        cls_targets = self._targets("cls", seen[0], temperature)
        patch_targets = self._targets("patch", seen[1], temperature)
        k = cls_logits.shape[-1]
        dino = dino_loss(
            cls_targets.view(views, count, k),
            cls_logits.view(-1, count, k),
            loss.student_temperature,
            same_view=loss.same_view,
        )
        ibot = ibot_loss(patch_targets, patch_logits, loss.student_temperature)
        total = loss.dino * dino + loss.ibot * ibot
        equal = (
            (cls_logits[: views * count].argmax(-1) == cls_targets.argmax(-1)).float().mean(),
            (patch_logits.argmax(-1) == patch_targets.argmax(-1)).float().mean(),
        )
        means = sum_over_processes(torch.stack([total, dino, ibot, *equal]).detach()) / self.processes.world
        if not torch.isfinite(means).all():
            raise EdgepathError(
                f"step {self.step + 1}: the loss is {float(means[0])}; the last checkpoint is kept; "
                'lower training.learning_rate or training.clip, or set training.precision = "fp32"'
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), options.clip)
        if self.step < options.freeze_prototypes:
            self.student.cls_head.prototypes.grad = self.student.patch_head.prototypes.grad = None
        for group in self.optimizer.param_groups:
            group["lr"] = rates["learning_rate"]
            group["weight_decay"] = rates["weight_decay"] if group["decays"] else 0.0
        self.optimizer.step()
        update_average(self.ema, self.student, rates["ema"])
        self.step += 1
        figures = dict(zip(_FIGURES, means.tolist(), strict=True))
        return figures | rates | {"gradient_norm": float(norm)}

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed run needs to go on as if nothing had happened."""
        device = self.processes.device
        return {
            "step": self.step,
            "identity": self.identity,
            "options": self.options.to_json(),
            "student": self.student.state_dict(),
            "ema": self.ema.state_dict(),
            "teacher_heads": self.teacher.heads_state(),
            "centers": self.centers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "device_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` returned."""
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self.ema.load_state_dict(state["ema"])
        self.teacher.load_state_dict(state["teacher_heads"], strict=False)  # the model itself was loaded already
        self.centers.load_state_dict(state["centers"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        if state["device_rng"] is not None and self.processes.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_rng"], self.processes.device)

    def _targets(self, which: str, logits: Tensor, temperature: float) -> Tensor:
        loss = self.options.loss
        if loss.centering == "sinkhorn":
            return sinkhorn(logits, temperature, loss.sinkhorn_iterations)
        targets: Tensor = self.centers[which](logits, temperature)
        return targets

    def _schedules(self) -> dict[str, float]:
        training, loss, step = self.options.training, self.options.loss, self.step
        steps = training.steps
        return {
            "learning_rate": cosine(step, steps, training.learning_rate, training.learning_rate_end, training.warmup),
            "weight_decay": cosine(step, steps, training.weight_decay, training.weight_decay_end),
            "ema": cosine(step, steps, training.ema, training.ema_end),
            "teacher_temperature": linear(
                step, loss.teacher_temperature_start, loss.teacher_temperature, loss.teacher_temperature_warmup
            ),
        }

    def _autocast(self) -> Any:
        if self.precision is torch.float32:
            return nullcontext()
        return torch.autocast(self.processes.device.type, dtype=self.precision)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, momentum: float) -> None:
    """Move the moving average: average = momentum x average + (1 - momentum) x model."""
    for kept, now in zip(average.parameters(), model.parameters(), strict=True):
        kept.mul_(momentum).add_(now, alpha=1 - momentum)


def _loop(run: _Run, loader: Loader, folder: Path, say: Progress) -> None:
    """Train to the last step; the first process logs, saves and shows how far it is."""
    options, first = run.options, run.processes.first
    log = Log(folder, run.step) if first else None
    rows: list[dict[str, float]] = []
    steps = loader.steps(run.step)
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
                log.add(_row(rows, done, options.training.batch, seconds, waited, log.seconds))
            rows, waited, before = [], 0.0, time.perf_counter()
        if first and (done % options.run.checkpoint_every == 0 or last):
            save_checkpoint(folder, run.state())
        if first:
            say("distil", done, options.training.steps)


def _row(
    rows: list[dict[str, float]], step: int, batch: int, seconds: float, waited: float, total: float
) -> dict[str, float]:
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in (*_FIGURES, "gradient_norm")}
    speed = {"tiles_per_s": len(rows) * batch / seconds, "waiting_share": waited / seconds, "seconds": total}
    return rows[-1] | mean | speed | {"step": step}


def _find(model: str | ModelSpec) -> ModelSpec:
    return find_model(model) if isinstance(model, str) else model


def _start(model: str | ModelSpec, weights: str | Path | None) -> tuple[nn.Module, ModelSpec, str]:
    """Return the student, untrained or with weights, its spec, and in words what it starts from."""
    spec = _find(model)
    vit = build_student(spec)
    if weights is None:
        return vit, spec, "timm's initialisation"
    loaded, spec, facts = load_model(spec, weights)
    vit.load_state_dict(loaded.state_dict())
    return vit, spec, f"{facts.source}, sha256 {facts.sha256}"


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
