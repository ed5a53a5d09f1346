"""Choose for each layer how strongly it is smoothed and where its input is cut off, by the error of its own output.

A choice that is best on the calibration tiles is not best on a device: the tighter the range, the more is cut off on
tissue that calibration did not see, and it is on such tissue that an embedding must not move. So every choice is
judged across two kinds of tiles: made from the ranges of the one, judged on the tokens of the other, both ways. What
is kept is then made from both. The second kind is the procedural tissue in all its stainings and scanners.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..machine.inference import linear
from ..machine.progress import Advance
from .calibrate import Plan, Ranges, Rows, calibrate, linears
from .fold import EdgeModel
from .linear import INT8_MAX, storable_scale, weight_max
from .smooth import Fold, fold_scale, folds

STRENGTHS = ((0.0, 0.0), *((alpha, quiet) for alpha in (0.5, 0.75, 0.9) for quiet in (0.0, 0.5, 0.9)))
"""(alpha, quiet) to choose from, see `smooth`."""
WAYS = ("largest", "percentile 99.99", "percentile 99.9", "least squares")
"""What the largest integer may stand for."""
SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Shares of the largest magnitude that a range of least squared error is looked for among."""


WORTH = 0.9
"""A range that cuts off what was seen must leave this share of the error: few tokens show little of the rarest."""
LOOKS = "synthetic:{}:9100"
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
    progress: Advance | None = None,
) -> Seen:
    """Calibrate `model` on `batches`, each uint8 (N, S, S, 3) and `tiles` in all, and keep a few tokens."""
    rows = Rows(model.vit.num_prefix_tokens, tiles)
    return Seen(calibrate(model, batches, rows=rows, device=device, progress=progress), rows)


@torch.inference_mode()
def tune(
    model: EdgeModel,
    first: Seen,
    other: Seen,
    *,
    smoothing: bool = True,
    weight_bits: int = 8,
    progress: Advance | None = None,
) -> tuple[Ranges, Plan]:
    """Return the joint ranges of both kinds of tiles, and a strength and a limit for every layer; `model` is unchanged.

    Without `smoothing` every strength is 0.

    A layer's error is the mean over tokens of |quantized output - output|^2 / |output|^2 (biases left out): class
    token, registers and patches count alike, however large they are.
    """
    layers = dict(model.named_modules())
    both = joint(first.ranges, other.ranges)
    strengths: dict[str, tuple[float, float]] = {}
    scales: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # from the ranges of the first, of the other, of both
    sources = (first.ranges.absmax, other.ranges.absmax, both.absmax)
    for fold in folds(model):
        ways = [(way, _scales(fold, layers, sources, way)) for way in STRENGTHS[: None if smoothing else 1]]
        errors = _fold_errors(fold, layers, first, other, [way_scales for _, way_scales in ways], weight_bits)
        strength, fold_scales = ways[int(np.argmin(errors))]
        for name in fold.consumers:
            strengths[name], scales[name] = strength, fold_scales
        if progress is not None:
            progress(len(fold.consumers))
    limits = {}
    for name in linears(model):
        plain = torch.ones(layers[name].in_features)
        layer_scales = scales.get(name, (plain,) * 3)
        limits[name] = _choose_limit(layers[name], name, first, other, both, layer_scales, weight_bits)
    return both, Plan(strengths, limits)


def joint(first: Ranges, other: Ranges) -> Ranges:
    """Return the ranges of two sets of tiles together."""
    absmax = {name: np.maximum(values, other.absmax[name]) for name, values in first.absmax.items()}
    return Ranges(absmax, first.tiles + other.tiles)


def _scales(
    fold: Fold, layers: Mapping[str, Any], sources: tuple[dict[str, np.ndarray], ...], strength: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    first, other, both = (fold_scale(fold, layers, absmax, *strength) for absmax in sources)
    return first, other, both


def _fold_errors(
    fold: Fold,
    layers: Mapping[str, Any],
    first: Seen,
    other: Seen,
    ways: Sequence[tuple[Tensor, Tensor, Tensor]],
    bits: int,
) -> np.ndarray:
    """Return for each way to scale the error of a fold's consumers at full range, across both kinds of tiles."""
    total = np.zeros(len(ways))
    for name in fold.consumers:
        weight = layers[name].weight.detach()
        for source, (made, judged) in enumerate(((first, other), (other, first))):
            rows = judged.rows.of(name)
            exact = linear(rows, weight)
            for way, scales in enumerate(ways):
                limit = _largest(made.ranges, name, scales[source])
                total[way] += _error(weight, rows, exact, scales[source], (limit,), bits)[0]
    return total


def _choose_limit(
    layer: Any, name: str, first: Seen, other: Seen, both: Ranges, scales: tuple[Tensor, Tensor, Tensor], bits: int
) -> float:
    """Return the best of the largest magnitude, two percentiles, and the range of least squared error."""
    weight, errors = layer.weight.detach(), np.zeros(len(WAYS))
    for made, judged, scale in ((first, other, scales[0]), (other, first, scales[1])):
        limits = _limits(made.rows.of(name) / scale, _largest(made.ranges, name, scale))
        judged_rows = judged.rows.of(name)
        errors += _error(weight, judged_rows, linear(judged_rows, weight), scale, limits, bits)
    rows = torch.cat([first.rows.of(name), other.rows.of(name)]) / scales[2]
    best = int(errors.argmin())
    best = best if errors[best] < WORTH * errors[0] else 0
    return _limits(rows, _largest(both, name, scales[2]))[best]


def _limits(rows: Tensor, largest: float) -> tuple[float, ...]:
    """Return the magnitudes that 127 could stand for, in the order of `WAYS`."""
    sizes = rows.abs().flatten().numpy()
    percentiles = np.quantile(sizes, (0.9999, 0.999))
    errors = [float((round_to_steps(rows, largest * share) - rows).square().sum()) for share in SHARES]
    return largest, *(min(largest, float(size)) for size in percentiles), largest * SHARES[int(np.argmin(errors))]


def _largest(ranges: Ranges, name: str, scale: Tensor) -> float:
    return float((torch.from_numpy(ranges.absmax[name]) / scale).max())


def _error(
    weight: Tensor, rows: Tensor, exact: Tensor, scale: Tensor, limits: Sequence[float], bits: int
) -> np.ndarray:
    """Return for each limit the mean over rows (N, in) of the relative squared error of the INT8 layer's output.

    `weight` (out, in), `rows` and their product `exact` (N, out) are those of the layer as it is, `scale` (in,) is what
    smoothing divides rows by.
    """
    largest, smoothed = weight_max(bits), weight * scale
    step = storable_scale(smoothed.abs().amax(dim=1), largest)[:, None]
    rounded = torch.round(smoothed / step).clamp_(-largest, largest).mul_(step)
    size = exact.square().sum(1).clamp_min(1e-12)
    errors = []
    for limit in limits:
        error = linear(round_to_steps(rows / scale, limit), rounded).sub_(exact).square().sum(1)
        errors.append(float((error / size).mean()))
    return np.array(errors)


def round_to_steps(values: Tensor, limit: float) -> Tensor:
    """Round to the 8-bit steps of a tensor whose largest magnitude is `limit`."""
    scale = storable_scale(torch.tensor(limit))
    return torch.round(values / scale).clamp_(-INT8_MAX - 1, INT8_MAX).mul_(scale)
