"""Teacher and student around timm's vision transformers: uint8 crops in, class and patch logits out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RecipeError, UsageError
from ..models.catalogue import ModelSpec
from ..models.weights import build
from .heads import Compare, StudentHead, TeacherHead
from .options import Options


class Tokens(nn.Module):
    """A vision transformer that takes uint8 crops (N, S, S, 3) and returns class (N, D) and patch tokens (N, P, D)."""

    mean: Tensor
    std: Tensor

    def __init__(self, vit: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.vit = vit
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return both kinds of tokens, no registers."""
        vit: Any = self.vit
        tokens = vit.forward_features(self.normalize(crops))
        return tokens[:, 0], tokens[:, vit.num_prefix_tokens :]

    def normalize(self, crops: Tensor) -> Tensor:
        """Return float32 pixels (N, 3, S, S), as the model wants them."""
        normalized: Tensor = (crops.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return normalized


class Teacher(nn.Module):
    """The frozen model with its fixed heads."""

    def __init__(self, vit: nn.Module, spec: ModelSpec, options: Options) -> None:
        super().__init__()
        self.tokens = Tokens(vit, spec).requires_grad_(False)
        heads, dim = options.heads, width(vit)
        self.cls_head = TeacherHead(dim, heads.bottleneck, heads.cls_prototypes, seed=1)
        self.patch_head = TeacherHead(dim, heads.bottleneck, heads.patch_prototypes, seed=2)
        self.eval()

    @torch.no_grad()
    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of class tokens (N, K) and of all patch tokens (N x P, K)."""
        cls, patches = self.tokens(crops)
        return self.cls_head(cls), self.patch_head(patches.flatten(0, 1))

    def heads_state(self) -> dict[str, Tensor]:
        """Return what `fit` made of the heads; the model itself is kept elsewhere."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("tokens.")}


class Student(nn.Module):
    """The model that learns, with heads of its own that are thrown away in the end, or with its teacher's."""

    def __init__(self, vit: nn.Module, spec: ModelSpec, options: Options, teacher: Teacher) -> None:
        super().__init__()
        self.tokens = Tokens(vit, spec)
        heads, dim = options.heads, width(vit)
        self.cls_head: nn.Module
        self.patch_head: nn.Module
        if heads.student == "trained":
            self.cls_head = StudentHead(dim, heads.hidden, heads.bottleneck, heads.cls_prototypes)
            self.patch_head = StudentHead(dim, heads.hidden, heads.bottleneck, heads.patch_prototypes)
            return
        theirs = width(teacher.tokens.vit)
        if dim != theirs:
            raise RecipeError(
                f'heads.student = "teacher": student {spec.name} has {dim} features, its teacher {theirs}; '
                'choose two of one width, or "trained"'
            )
        self.cls_head, self.patch_head = Compare(teacher.cls_head), Compare(teacher.patch_head)

    def forward(self, large: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits of all crops (G + L), large ones first, and patch logits of the large ones."""
        cls, patches = self.tokens(large)
        if len(small):
            cls = torch.cat([cls, self.tokens(small)[0]])
        return self.cls_head(cls), self.patch_head(patches.flatten(0, 1))


def build_student(spec: ModelSpec) -> nn.Module:
    """Return a student as timm starts it, with positions that are interpolated for crops of another size."""
    vit: Any = build(replace(spec, timm_args={**spec.timm_args, "dynamic_img_size": True}))
    if not getattr(vit, "has_class_token", False):
        raise UsageError(f"student {spec.name}: has no class token to distil into; choose another --student")
    module: nn.Module = vit
    return module


def check_pair(teacher: nn.Module, teacher_spec: ModelSpec, student: nn.Module, spec: ModelSpec, local: int) -> None:
    """Refuse a teacher and a student whose tokens do not lie on the same places. Raises UsageError."""
    if not getattr(teacher, "has_class_token", False):
        raise UsageError(f"teacher {teacher_spec.name}: has no class token to learn from; choose another --teacher")
    if teacher_spec.size != spec.size:
        raise UsageError(
            f"teacher {teacher_spec.name} takes {teacher_spec.size} px tiles, student {spec.name} {spec.size} px; "
            "choose two of one size"
        )
    ours, theirs = grid(student), grid(teacher)
    if ours != theirs:
        raise UsageError(
            f"teacher {teacher_spec.name} has {theirs} x {theirs} patch tokens, student {spec.name} {ours} x {ours}; "
            "iBOT compares them one by one: choose two of one patch size"
        )
    patch = spec.size // ours
    if local < patch or local % patch:
        raise UsageError(f"views.local_size = {local}; student {spec.name} needs a multiple of its {patch} px patches")


def width(vit: nn.Module) -> int:
    """Return how many features a token has."""
    model: Any = vit
    return int(model.embed_dim)


def grid(vit: nn.Module) -> int:
    """Return how many patches lie along one side."""
    model: Any = vit
    return int(model.patch_embed.grid_size[0])


def optimizer_groups(net: nn.Module) -> list[dict[str, object]]:
    """Return the optimizer's groups: biases, norms, LayerScale and single tokens do not decay, as in DINOv2."""
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, value in net.named_parameters():
        single = name.endswith(("pos_embed", "cls_token", "reg_token", "dist_token"))
        if value.requires_grad:
            parts[value.ndim > 1 and not single].append(value)
    return [{"params": values, "decays": decays} for decays, values in parts.items()]
