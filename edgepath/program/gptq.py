"""Round weights so that their errors make up for each other, instead of each to its nearest step.

GPTQ (Frantar et al., arXiv 2210.17323, algorithm 1, the loudest input first as in its authors' code): columns are
rounded one after the other, and what one column's rounding does to the layer's output is taken back by those to come.
With X the inputs, as they are after their own rounding, and H = X^T X, the error of column j is spread by row j of the
Cholesky factor U of H^-1 (H^-1 = U^T U, U upper triangular).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .calibrate import Progress, Ranges, linears
from .fold import EdgeModel
from .linear import (
    quantize_linear,
    replace_layer,
    to_quantize,
    weight_max,
)
from .tune import round_to_steps

DAMPING = 0.01  # of the mean of H's diagonal, as the paper has it: inputs that were hardly seen must not blow up
BLOCK = 64  # columns whose updates of the rest are made together; the result does not depend on it


def quantize_in_turn(
    model: EdgeModel,
    ranges: Ranges,
    rows: Mapping[str, Tensor],
    *,
    weight_bits: int = 8,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
) -> EdgeModel:
    """Do what `quantize` does, in place, with weights rounded in turn; `model` and `ranges` are smoothed.

    `rows` are tokens that enter each linear of the smoothed model, float32 (N, in_features).
    """
    for name, layer in to_quantize(linears(model), keep).items():
        quantized = quantize_linear(layer, ranges.limit(name), weight_bits)
        inputs = round_to_steps(rows[name], ranges.limit(name))
        integers = round_in_turn(layer.weight.detach(), quantized.weight_scale, inputs, weight_max(weight_bits))
        quantized.weight = integers.to(torch.int8)
        replace_layer(model, name, quantized)
        if progress is not None:
            progress(1)
    return model


def round_in_turn(weight: Tensor, scale: Tensor, inputs: Tensor, largest: int) -> Tensor:
    """Return integers, float32 (out, in), from -`largest` to `largest`, for `weight` (out, in) in steps `scale` (out,).

    `inputs` is (N, in). Columns that no input reaches are rounded to the nearest step.
    """
    steps, wide = scale.double(), inputs.double()
    hessian = wide.T @ wide / len(wide)
    hessian += torch.eye(len(hessian), dtype=torch.float64) * (DAMPING * hessian.diagonal().mean().clamp_min(1e-30))
    order = hessian.diagonal().argsort(descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
    spread = torch.linalg.cholesky(inverse, upper=True)
    left = weight.double()[:, order]
    rounded = torch.empty_like(left)
    for start in range(0, left.shape[1], BLOCK):
        stop = min(start + BLOCK, left.shape[1])
        errors = torch.empty_like(left[:, start:stop])
        for column in range(start, stop):
            rounded[:, column] = (left[:, column] / steps).round().clamp(-largest, largest)
            error = (left[:, column] - rounded[:, column] * steps) / spread[column, column]
            left[:, column:stop] -= error[:, None] * spread[column, column:stop]
            errors[:, column - start] = error
        left[:, stop:] -= errors @ spread[start:stop, stop:]
    return rounded[:, order.argsort()].float()
