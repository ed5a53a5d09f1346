"""The smallest teacher, student and run, for tests in this process and in others."""

from __future__ import annotations

from typing import Any

import timm
import torch

from edgepath.distillation.imagenet import TIMM_NAME, Stem, cut_stem
from edgepath.models.catalogue import ModelSpec, find_model

# Everything as small as it goes; the methods stay those of the recipes.
SMALL = {
    "views.global_count": 2,
    "views.local_count": 1,
    "views.local_size": 56,
    "heads.cls_prototypes": 32,
    "heads.patch_prototypes": 64,
    "heads.hidden": 64,
    "heads.student": "trained",
    "heads.bottleneck": 32,
    "heads.fit_tiles": 8,
    "training.steps": 4,
    "training.batch": 4,
    "training.warmup": 1,
    "training.freeze_prototypes": 1,
    "training.ema": 0.9,
    "run.checkpoint_every": 1,
    "run.log_every": 1,
    "run.workers": 0,
}


def vit(name: str, dim: int, **changes: Any) -> ModelSpec:
    h0_mini = find_model("h0-mini")
    arguments = {**h0_mini.timm_args, "embed_dim": dim, "num_heads": 2, "depth": 1, **changes}
    return ModelSpec(name, "for tests", h0_mini.timm_name, arguments, h0_mini.mean, h0_mini.std, "Apache-2.0")


TEACHER, STUDENT = vit("large", 96), vit("small", 48)
WIDE = vit("wide", 192)


def untrained_stem() -> Stem:
    """Return the stem of `imagenet` before training: no download, the same layers."""
    torch.manual_seed(0)
    return cut_stem(timm.create_model(TIMM_NAME))
