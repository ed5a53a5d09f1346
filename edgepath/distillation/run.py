"""A run's models, optimizer and centers: one step, and all that is needed to go on from it."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import UsageError
from ..machine.progress import Progress
from ..models.catalogue import ModelSpec, find_model
from ..models.weights import load_model
from ..tiles.source import TileSource
from .checkpoint import State, require_finite
from .loader import Views
from .loop import Figures, descend, gradients
from .losses import MeanCenter, dino_loss, ibot_loss, sinkhorn
from .networks import Student, Teacher, build_student, check_pair, optimizer_groups
from .options import Options
from .processes import Processes, from_first, sum_over_processes
from .schedules import cosine, linear

FIGURES = ("loss", "dino", "ibot", "cls_agreement", "patch_agreement")


class _State(State):
    student: dict[str, Tensor]
    ema: dict[str, Tensor]
    teacher_heads: dict[str, Tensor]
    centers: dict[str, Tensor]
    optimizer: dict[str, object]
    rng: Tensor
    device_rng: Tensor | None


class Distillation:
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
        frozen, teacher_spec, weights = load_model(_find(teacher), teacher_weights, option="--teacher-weights")
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
        self.device = device = processes.device
        self.teacher = Teacher(frozen, teacher_spec, options).to(device)
        self.student = Student(vit, self.spec, options, self.teacher).to(device).train()
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
        if count < 2:
            raise UsageError(f"distill: {count} of the tiles for the teacher's heads; they are fitted on 2 or more")
        chosen = source.select(np.linspace(0, len(source) - 1, count).astype(int).tolist())
        parts: list[tuple[Tensor, Tensor]] = []
        for batch in chosen.batches(16):
            with torch.no_grad(), self._autocast():
                cls, patches = self.teacher.tokens(torch.from_numpy(batch.pixels).to(self.device))
            parts.append((cls.float(), patches.flatten(0, 1).float()))
            say("fit teacher", sum(len(part[0]) for part in parts), count)
        from_tokens = self.options.heads.teacher_prototypes == "tokens"
        self.teacher.cls_head.fit(torch.cat([part[0] for part in parts]), from_tokens, seed=3)
        self.teacher.patch_head.fit(torch.cat([part[1] for part in parts]), from_tokens, seed=4)
        from_first(self.teacher.cls_head)
        from_first(self.teacher.patch_head)

    def train(self, views: Views) -> tuple[Figures, Figures]:
        """Take one step; return its figures, the mean over all processes, and its rates."""
        large, small = (torch.from_numpy(crops).to(self.device).flatten(0, 1) for crops in views)
        rates, options = self._schedules(), self.options.training
        total, figures = self._losses(large, small, views[0].shape[:2], rates["teacher_temperature"])
        means = (sum_over_processes(figures.detach()) / self.processes.world).tolist()
        require_finite(self.step + 1, loss=means[0])
        norm = gradients(total, self.student, options.clip, self.step + 1)
        if self.step < options.freeze_prototypes:
            for name, value in self.student.named_parameters():
                if name.endswith("_head.prototypes"):
                    value.grad = None
        descend(self.optimizer, rates["learning_rate"], rates["weight_decay"])
        update_average(self.ema, self.student, rates["ema"])
        self.step += 1
        return dict(zip(FIGURES, means, strict=True)) | {"gradient_norm": norm}, rates

    def _losses(
        self, large: Tensor, small: Tensor, shape: tuple[int, int], temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of crops, `shape` of them (views, tiles) large ones, and `FIGURES` as one tensor."""
        loss, (views, count) = self.options.loss, shape
        with self._autocast():
            seen = self.teacher(large)
            cls_logits, patch_logits = self.forward(large, small)
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
        return total, torch.stack([total, dino, ibot, *equal])

    def state(self) -> _State:
        """Return everything that a resumed run needs to go on as if nothing had happened."""
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
            "device_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, state: State) -> None:
        """Go back to what `state` returned."""
        kept = cast(_State, state)
        self.step = kept["step"]
        self.student.load_state_dict(kept["student"])
        self.ema.load_state_dict(kept["ema"])
        self.teacher.load_state_dict(kept["teacher_heads"], strict=False)  # the model itself was loaded already
        self.centers.load_state_dict(kept["centers"])
        self.optimizer.load_state_dict(kept["optimizer"])
        torch.set_rng_state(kept["rng"])
        if kept["device_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(kept["device_rng"], self.device)

    def _targets(self, which: str, logits: Tensor, temperature: float) -> Tensor:
        loss = self.options.loss
        if loss.centering == "sinkhorn":
            return sinkhorn(logits, temperature, loss.sinkhorn_iterations)
        if loss.centering == "none":
            return (logits.float() / temperature).softmax(1)
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
        return torch.autocast(self.device.type, dtype=self.precision)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, momentum: float) -> None:
    """Move the moving average: average = momentum x average + (1 - momentum) x model."""
    for kept, now in zip(average.parameters(), model.parameters(), strict=True):
        kept.mul_(momentum).add_(now, alpha=1 - momentum)


def _find(model: str | ModelSpec) -> ModelSpec:
    return find_model(model) if isinstance(model, str) else model


def _start(model: str | ModelSpec, weights: str | Path | None) -> tuple[nn.Module, ModelSpec, str]:
    """Return the student, untrained or with weights, its spec, and in words what it starts from."""
    spec = _find(model)
    if weights is None:
        return build_student(spec), spec, "timm's initialisation"
    loaded, spec, facts = load_model(spec, weights, option="--student-weights")
    vit = build_student(spec)  # as the weights' own folder describes it
    vit.load_state_dict(loaded.state_dict())
    return vit, spec, f"{facts.source}, sha256 {facts.sha256}"
