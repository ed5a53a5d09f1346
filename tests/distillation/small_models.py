"""The smallest teacher, student and run, for tests in this process and in others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgepath.models.catalogue import ModelSpec, find_model

RECIPE = str(Path(__file__).resolve().parents[2] / "tools/demo_model/demo.toml")
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
DEEPER = vit("small", 48, depth=2, drop_path_rate=0.5)
"""A student that draws numbers as it trains."""
