"""INT8 for the product of queries and keys, attention's scores: both rounded per tensor, as the input of a linear is.

The other product of attention stays in floating point: its weights are shares of 261 tokens, most of which are below
half a step of 1/127, and rounding them moves the embedding far more than all INT8 linears together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import UsageError, WeightsError, did_you_mean
from .calibrate import (
    LARGEST,
    SCORES,
    Ranges,
    attentions,
)
from .linear import Rounded, storable_scale

if TYPE_CHECKING:
    from .fold import EdgeModel


def round_scores(model: EdgeModel, ranges: Ranges, *, keep: Sequence[str] = ()) -> EdgeModel:
    """Round queries and keys of all attentions but those whose scores are in `keep`, in place; return the model.

    Raises UsageError for ranges that were taken on another model, or without those of queries and keys.
    """
    for name, attn in attentions(model).items():
        if name + SCORES not in keep:
            if name not in ranges.scores:
                raise UsageError(f"calibration ranges do not fit the model: the queries and keys of {name} are missing")
            attn.q_norm, attn.k_norm = rounded_norms(attn, ranges.scores[name])
    return model


def rounded_norms(attn: Any, largest: tuple[float, float]) -> tuple[Rounded, Rounded]:
    """Return what rounds an attention's queries and keys, behind its norms; `largest` are their magnitudes.

    Raises WeightsError for magnitudes whose scale FP16 does not hold.
    """
    if max(largest) > LARGEST:
        raise WeightsError(
            f"calibration: queries or keys reach {max(largest):.3g}; a scale does not fit FP16 above {LARGEST:.3g}; "
            "leave out quantize.scores"
        )
    query, key = (float(storable_scale(torch.tensor(value))) for value in largest)
    return Rounded(attn.q_norm, query), Rounded(attn.k_norm, key)


def score_names(model: nn.Module) -> list[str]:
    """Return what the products of queries and keys are called."""
    return [name + SCORES for name in attentions(model)]


def check_kept(model: nn.Module, keep: Sequence[str], scores: bool) -> None:
    """Raise UsageError for scores in `keep` that the model has not, or that are not in INT8 anyway."""
    for name in keep:
        if name.endswith(SCORES) and not scores:
            raise UsageError(f"quantize.keep: {name} is not in INT8 without quantize.scores; leave it out")
        if name.endswith(SCORES) and name not in score_names(model):
            near = did_you_mean(name, score_names(model))
            raise UsageError(f"quantize.keep: the model has no attention of {name}; {near}")
