"""The smallest teacher, and what it learns from."""

from __future__ import annotations

from typing import Any

import timm
import torch

from edgepath.models.catalogue import ModelSpec, find_model
from tools.demo_model.imagenet import TIMM_NAME, Stem, cut_stem


def vit(name: str, dim: int, **changes: Any) -> ModelSpec:
    h0_mini = find_model("h0-mini")
    arguments = {**h0_mini.timm_args, "embed_dim": dim, "num_heads": 2, "depth": 1, **changes}
    return ModelSpec(name, "for tests", h0_mini.timm_name, arguments, h0_mini.mean, h0_mini.std, "Apache-2.0")


WIDE = vit("wide", 192)


def untrained_stem() -> Stem:
    """Return the stem of `imagenet` before training: no download, the same layers."""
    torch.manual_seed(0)
    return cut_stem(timm.create_model(TIMM_NAME))
