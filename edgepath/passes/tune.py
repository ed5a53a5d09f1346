"""Choose for each layer how strongly it is smoothed and where its input is cut off, by the error of its own output.

A choice that is best on the calibration tiles is not best on a device: the tighter the range, the more is cut off on
tissue that calibration did not see, and it is on such tissue that an embedding must not move. So every choice is
judged across two kinds of tiles: made from the ranges of the one, judged on the tokens of the other, both ways. What
is kept is then made from both. The second kind is the procedural tissue in all its stainings and scanners.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calibrate import Progress, Ranges, Rows, calibrate, linears
from .fold import EdgeModel
from .quantize import INT8_MAX, storable_scale, weight_max
from .smooth import Fold, fold_scale, folds

STRENGTHS = ((0.0, 0.0), *((alpha, quiet) for alpha in (0.25, 0.5, 0.75, 0.9) for quiet in (0.0, 0.5, 0.9)))
"""(alpha, quiet) to choose from, see `smooth`."""
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Shares of the largest magnitude that a range of least squared error is looked for among."""


WORTH = 0.9
"""A range that cuts off what was seen must leave this share of the error: few tokens show little of the rarest."""
LOOKS = "synthetic:{}:1"
"""The second kind of tiles; of another seed than those one calibrates on for lack of any."""


@dataclass(frozen=True)
class Seen:
    """What one kind of tiles showed: ranges of all tokens, and a few tokens themselves."""

    ranges: Ranges
    rows: Rows


def see(
    model: EdgeModel,
    batches: Iterable[np.ndarray],
    tiles: int,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Seen:
    """Calibrate `model` on `batches`, each uint8 (N, S, S, 3) and `tiles` in all, and keep a few tokens."""
    rows = Rows(model.vit.num_prefix_tokens, tiles)
    return Seen(calibrate(model, batches, rows=rows, device=device, progress=progress), rows)


def tune(model: EdgeModel, one: Seen, other: Seen, *, smoothing: bool = True, weight_bits: int = 8) -> Ranges:
    """Return the joint ranges of both kinds of tiles with a strength and a limit for every layer; `model` is unchanged.

    Without `smoothing` every strength is 0.

    A layer's error is the mean over tokens of |quantized output - output|^2 / |output|^2 (biases left out): class
    token, registers and patches count alike, however large they are.
    """
    layers = dict(model.named_modules())
    both = joint(one.ranges, other.ranges)
    strengths: dict[str, tuple[float, float]] = {}
    scales: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # from the ranges of one, of the other, of both
    sources = (one.ranges.absmax, other.ranges.absmax, both.absmax)
    for fold in folds(model):
        ways = [(way, _scales(fold, layers, sources, way)) for way in STRENGTHS[: None if smoothing else 1]]
        errors = [_fold_error(fold, layers, one, other, found, weight_bits) for _, found in ways]
        strength, found = ways[int(np.argmin(errors))]
        for name in fold.consumers:
            strengths[name], scales[name] = strength, found
    limits = {}
    for name in linears(model):
        plain = torch.ones(layers[name].in_features)
        limits[name] = _choose_limit(layers[name], name, one, other, both, scales.get(name, (plain,) * 3), weight_bits)
    return replace(both, strengths=strengths, limits=limits)


def joint(one: Ranges, other: Ranges) -> Ranges:
    """Return the ranges of two sets of tiles together."""
    absmax = {name: np.maximum(values, other.absmax[name]) for name, values in one.absmax.items()}
    return Ranges(absmax, one.tiles + other.tiles)


def _scales(
    fold: Fold, layers: Mapping[str, Any], sources: tuple[dict[str, np.ndarray], ...], strength: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    one, other, both = (fold_scale(fold, layers, absmax, *strength) for absmax in sources)
    return one, other, both


def _fold_error(
    fold: Fold,
    layers: Mapping[str, Any],
    one: Seen,
    other: Seen,
    scales: tuple[Tensor, Tensor, Tensor],
    bits: int,
) -> float:
    """Return the error of a fold's consumers at full range, across both kinds of tiles."""
    total = 0.0
    for name in fold.consumers:
        for made, judged, scale in ((one, other, scales[0]), (other, one, scales[1])):
            limit = _largest(made.ranges, name, scale)
            total += _error(layers[name].weight.detach() * scale, judged.rows.of(name) / scale, limit, bits)
    return total


def _choose_limit(
    layer: Any, name: str, one: Seen, other: Seen, both: Ranges, scales: tuple[Tensor, Tensor, Tensor], bits: int
) -> float:
    """Return the best of the largest magnitude, two percentiles, and the range of least squared error."""
    weight = layer.weight.detach()
    ways: dict[str, float] = dict.fromkeys(("largest", "percentile 99.99", "percentile 99.9", "least squares"), 0.0)
    for made, judged, scale in ((one, other, scales[0]), (other, one, scales[1])):
        limits = _limits(made.rows.of(name) / scale, _largest(made.ranges, name, scale))
        rows = judged.rows.of(name) / scale
        for way in ways:
            ways[way] += _error(weight * scale, rows, limits[way], bits)
    rows = torch.cat([one.rows.of(name), other.rows.of(name)]) / scales[2]
    best = min(ways, key=ways.__getitem__)
    best = best if ways[best] < WORTH * ways["largest"] else "largest"
    return _limits(rows, _largest(both, name, scales[2]))[best]


def _limits(rows: Tensor, largest: float) -> dict[str, float]:
    """Return the candidates for the magnitude that 127 stands for."""
    sizes = rows.abs().flatten().double().numpy()
    errors = [float((fake_quantize(rows, largest * share) - rows).square().sum()) for share in SHARES]
    return {
        "largest": largest,
        "percentile 99.99": min(largest, float(np.quantile(sizes, 0.9999))),
        "percentile 99.9": min(largest, float(np.quantile(sizes, 0.999))),
        "least squares": largest * SHARES[int(np.argmin(errors))],
    }


def _largest(ranges: Ranges, name: str, scale: Tensor) -> float:
    return float((torch.from_numpy(ranges.absmax[name]) / scale).max())


def _error(weight: Tensor, rows: Tensor, limit: float, bits: int) -> float:
    """Return the mean over rows (N, in) of the relative squared error of the INT8 layer's output."""
    largest = weight_max(bits)
    scale = storable_scale(weight.abs().amax(dim=1), largest)[:, None]
    rounded = torch.round(weight / scale).clamp(-largest, largest) * scale
    exact = rows @ weight.T
    error = (fake_quantize(rows, limit) @ rounded.T - exact).square().sum(1)
    return float((error / exact.square().sum(1).clamp_min(1e-12)).mean())


def fake_quantize(values: Tensor, limit: float) -> Tensor:
    """Round to the 8-bit steps of a tensor whose largest magnitude is `limit`."""
    scale = storable_scale(torch.tensor(limit))
    return torch.round(values / scale).clamp(-INT8_MAX - 1, INT8_MAX) * scale
