"""Does a tile find its twin, the same place under another staining or scanner? PLISM's figures, without its matrices.

Definitions of owkin/plism-benchmark (arXiv 2501.16239, section on robustness). For two slides A and B of the same n
places: `cosine` is the mean cosine of twins; for top-k, each of the 2n tiles looks for its k nearest by cosine among
the other 2n - 1, and hits when its twin is among them; both directions are averaged.

The twin's rank needs no 2n x 2n matrix. Of its own slide a tile has to know only how near its nearest ones are, once a
slide; of the other slide, how many are nearer than the twin: one product of A and B, block by block in a buffer that
stays in the cache, answers that for A by its rows and for B by its columns.

Equal embeddings must have equal cosines to the last bit, or of equal tiles the twin would not come first. PyTorch's
product on a CPU gives that for large blocks, wherever a row lies in them (NumPy's, which is faster on AMD, does not);
few tiles are multiplied in float64 and rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .results import FIGURES, Group, Pair, Spread

TOP = (1, 3, 5, 10)
GROUPS = ("scanner", "staining", "both", "all")
"""Pairs that differ in the scanner only, in the staining only, in both, and all pairs."""
BLOCK = 768
"""Rows and columns of a block, at most: 2 MB."""


@dataclass(frozen=True)
class Slide:
    """A slide's embeddings, unit rows (N, D), and each tile's cosines to its ten nearest on the slide (N, <= 10).

    Rows are float32, or float64 where one block holds them all.
    """

    unit: Tensor
    nearest: Tensor


def prepare(embeddings: np.ndarray, name: str, *, device: str = "cpu") -> Slide:
    """Normalise a slide's embeddings, float32 (N, D), and find every tile's nearest ones on it.

    Raises UsageError for embeddings that are not finite, or zero.
    """
    if embeddings.ndim != 2 or not len(embeddings):
        raise UsageError(f"robustness: slide {name} holds embeddings of shape {embeddings.shape}; (N, D) is needed")
    values = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32)).to(device)
    norms = values.norm(dim=1, keepdim=True)
    if not torch.isfinite(norms).all() or not (norms > 0).all():
        raise UsageError(f"robustness: an embedding of slide {name} is not finite, or zero; embed the tiles again")
    count, blocks = len(values), spans(len(values))
    unit = values.double() / norms.double() if count <= BLOCK else values / norms
    kept, parts = min(max(TOP), count - 1), []
    strip = values.new_empty(max(rows.stop - rows.start for rows in blocks), count)
    for rows in blocks:
        cosines = multiply(unit[rows], unit, strip[: rows.stop - rows.start])
        cosines.diagonal(rows.start).fill_(-2.0)
        parts.append(cosines.topk(kept, dim=1).values)
    return Slide(unit, torch.cat(parts))


def compare(a: Slide, b: Slide) -> dict[str, float]:
    """Return `FIGURES` of two slides of the same places in the same order. Of equal cosines, the twin comes first."""
    return dict(zip(FIGURES, compare_places(a, b).mean(1).tolist(), strict=True))


def compare_places(a: Slide, b: Slide) -> np.ndarray:
    """Return `FIGURES` of every place, float64 (figures, N): its cosine, and how many of its two tiles hit, 0 to 1."""
    if a.unit.shape != b.unit.shape:
        raise UsageError(f"robustness: slides of shapes {tuple(a.unit.shape)} and {tuple(b.unit.shape)} do not match")
    blocks = spans(len(a.unit))
    side = max(rows.stop - rows.start for rows in blocks)
    held, marks, ones = a.nearest.new_empty(side**2), a.nearest.new_empty(side**2), a.nearest.new_ones(side)

    def cosines_of(rows: slice, columns: slice) -> Tensor:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return multiply(a.unit[rows], b.unit[columns], held[: height * width].view(height, width))

    twin = torch.cat([cosines_of(rows, rows).diagonal().clone() for rows in blocks])
    ranks = [(slide.nearest > twin[:, None]).sum(1, dtype=torch.int32) for slide in (a, b)]
    for rows in blocks:
        for columns in blocks:
            cosines = cosines_of(rows, columns)
            height, width = cosines.shape
            nearer = marks[: height * width].view(height, width)  # 1.0 where nearer: sums of so few are exact
            ranks[0][rows] += (torch.gt(cosines, twin[rows, None], out=nearer) @ ones[:width]).int()
            ranks[1][columns] += (ones[:height] @ torch.gt(cosines, twin[columns], out=nearer)).int()
    hits = [torch.stack([rank < k for rank in ranks]).double().mean(0) for k in TOP]
    figures: np.ndarray = torch.stack([twin.double(), *hits]).cpu().numpy()
    return figures


def spans(count: int) -> list[slice]:
    """Return spans of nearly equal length, `BLOCK` at most, so that none is a rest of one row: a product with a vector
    sums up in another order."""
    parts = -(-count // BLOCK)
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Write a @ b.T to `out`, float32: new memory for every block would take as long as the product."""
    return torch.mm(a, b.T, out=out) if a.dtype == out.dtype else out.copy_(a @ b.T)


def summarise(rows: Sequence[Pair]) -> dict[str, Group]:
    """Return each group's figures over its pairs: median, interquartile range, mean, standard deviation (ddof 0).

    A group without a pair is left out.
    """
    groups: dict[str, Group] = {}
    for group in GROUPS:
        if of := [row for row in rows if group in ("all", row["group"])]:
            spreads = {figure: _spread(np.array([row[figure] for row in of])) for figure in FIGURES}
            groups[group] = cast(Group, {"pairs": len(of)} | spreads)
    return groups


def _spread(values: np.ndarray) -> Spread:
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {
        "median": float(median),
        "iqr": float(high - low),
        "mean": float(values.mean()),
        "std": float(values.std()),
    }


def leaderboard(summary: Mapping[str, Group]) -> float | None:
    """Return PLISM's one number: the mean of four medians (cosine of all pairs, top-10 of the three groups).

    None where a group has no pairs, so that no other mean is taken for it.
    """
    if any(group not in summary for group in GROUPS):
        return None
    parts = [summary["all"]["cosine"]["median"]]
    parts += [summary[group]["top10"]["median"] for group in ("scanner", "staining", "both")]
    return float(np.mean(parts))
