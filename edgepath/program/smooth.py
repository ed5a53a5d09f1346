"""Move outliers from activations into weights, without a single extra operation.

SmoothQuant (Xiao et al., arXiv 2211.10438, eq. 3-4) divides each input channel of a linear by s and multiplies the
weight column by s, with s_j = max|x_j|^alpha / max|w_j|^(1 - alpha). The division has to live somewhere: here it is
folded into whatever made the channel, which in a ViT is always linear in that channel:

    qkv, fc1    <- the LayerNorm in front (its weight and bias)
    attn.proj   <- the V rows of qkv (attention weights mix tokens, never channels)
    mlp.fc2     <- the value half of fc1, in a gated MLP (the gate is not linear; a GELU MLP has no such place)

The full-precision function is unchanged. What does change is headroom: the more alike channels are made, the less room
is left above each, and on tissue where a channel is loud that was quiet during calibration, its values are cut off.
`quiet` bounds that: channels below this quantile of the largest magnitudes count as being at it, so are not raised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from timm.layers import GluMlp  # type: ignore[attr-defined]
from torch import Tensor, nn

from .calibrate import NO_PLAN, Plan, Ranges
from .fold import ClsOnlyBlock, EdgeModel


@dataclass(frozen=True)
class Fold:
    """Where the channels that feed `consumers` are made: `rows` of `producer` (all of a LayerNorm's)."""

    producer: nn.Module
    rows: slice
    consumers: tuple[str, ...]


def smooth(model: EdgeModel, ranges: Ranges, plan: Plan = NO_PLAN, *, alpha: float = 0.5) -> Ranges:
    """Smooth every linear that has a place to fold into, in place; return the ranges after smoothing.

    Where `plan` says no strength of a layer's own, `alpha` holds: from 0 to 1, how much of the difficulty moves into
    the weights; 0 leaves everything as it is.
    """
    if not alpha and not plan.strengths:
        return ranges
    layers = dict(model.named_modules())
    absmax = dict(ranges.absmax)
    for fold in folds(model):
        scale = fold_scale(fold, layers, absmax, *plan.strengths.get(fold.consumers[0], (alpha, 0.0)))
        divide_rows(fold.producer, fold.rows, scale)
        for name in fold.consumers:
            layers[name].weight.data.mul_(scale)
            absmax[name] = absmax[name] / scale.numpy()
    return replace(ranges, absmax=absmax)


def fold_scale(
    fold: Fold, layers: Mapping[str, Any], absmax: Mapping[str, np.ndarray], alpha: float, quiet: float
) -> Tensor:
    """Return what a fold's channels are divided by, float32 (channels,); ones for an `alpha` of 0."""
    weights = torch.cat([layers[name].weight.detach() for name in fold.consumers])
    if not alpha:
        return torch.ones(weights.shape[1])
    # Consumers of one producer share its channels; where they saw different tokens, the larger range counts.
    seen = torch.from_numpy(np.max([absmax[name] for name in fold.consumers], axis=0))
    return smoothing_scale(seen, weights.abs().amax(dim=0), alpha, quiet)


def smoothing_scale(activation: Tensor, weight: Tensor, alpha: float, quiet: float = 0.0) -> Tensor:
    """Return s, float32 (channels,), from the largest magnitudes per channel; 1 where a channel is dead.

    Normalised to a geometric mean of 1, so that what is folded stays in FP16's comfortable range.
    """
    alive = (activation > 0) & (weight > 0)
    scale = torch.ones_like(weight)
    if alive.any():
        loud = activation[alive].clamp_min(activation[alive].quantile(quiet)) if quiet else activation[alive]
        scale[alive] = loud**alpha / weight[alive] ** (1.0 - alpha)
        scale[alive] /= scale[alive].log().mean().exp()
    return scale.clamp(1e-3, 1e3)


def folds(model: EdgeModel) -> Iterator[Fold]:
    """Yield every fold that keeps the function exact, block by block."""
    blocks: Iterator[Any] = iter(model.vit.blocks)
    for index, block in enumerate(blocks):
        name = f"vit.blocks.{index}"
        attn, mlp = block.attn, block.mlp
        readers: tuple[str, ...]
        if isinstance(block, ClsOnlyBlock):
            readers, values = (f"{name}.attn.q", f"{name}.attn.kv"), attn.kv
        else:
            readers, values = (f"{name}.attn.qkv",), attn.qkv
            if getattr(attn, "gate", None) is not None:
                readers += (f"{name}.attn.gate",)
        if _is_affine(block.norm1):
            yield Fold(block.norm1, slice(None), readers)
        if isinstance(attn.norm, nn.Identity):
            width = attn.num_heads * attn.head_dim
            yield Fold(values, slice(values.out_features - width, None), (f"{name}.attn.proj",))
        if _is_affine(block.norm2):
            yield Fold(block.norm2, slice(None), (f"{name}.mlp.fc1",))
        linear_in_value = isinstance(mlp, GluMlp) and isinstance(mlp.norm, nn.Identity)
        if linear_in_value:
            half = mlp.fc1.out_features // 2
            rows = slice(0, half) if mlp.gate_last else slice(half, None)
            yield Fold(mlp.fc1, rows, (f"{name}.mlp.fc2",))


def _is_affine(norm: nn.Module) -> bool:
    return isinstance(norm, nn.LayerNorm) and norm.elementwise_affine


def divide_rows(producer: Any, rows: slice, scale: Tensor) -> None:
    """Divide what a linear or a norm makes in some of its rows, in place; `scale` is float32 (rows,)."""
    weight = producer.weight.data[rows]
    weight.div_(scale if weight.ndim == 1 else scale[:, None])
    if producer.bias is not None:
        producer.bias.data[rows].div_(scale)
