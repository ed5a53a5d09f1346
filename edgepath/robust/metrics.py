"""Does a tile find its twin, the same place under another staining or scanner? PLISM's figures, without its matrices.

Definitions of owkin/plism-benchmark (arXiv 2501.16239, section on robustness). For two slides A and B of the same n
places: `cosine` is the mean cosine of twins; for top-k, each of the 2n tiles looks for its k nearest by cosine among
the other 2n - 1, and hits when its twin is among them; both directions are averaged.

The twin's rank needs no 2n x 2n matrix. Of its own slide a tile has to know only how near its nearest ones are, once a
slide; of the other slide, how many are nearer than the twin: one blocked product of A and B answers that for A by its
rows and for B by its columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError

TOP = (1, 3, 5, 10)
FIGURES = ("cosine", *(f"top{k}" for k in TOP))
GROUPS = ("scanner", "staining", "both", "all")
"""Pairs that differ in the scanner only, in the staining only, in both, and all pairs."""
_BLOCK = 256


@dataclass(frozen=True)
class Slide:
    """A slide's embeddings, unit rows (N, D), and each tile's cosines to its ten nearest on the slide (N, <= 10)."""

    unit: Tensor
    nearest: Tensor


def prepare(embeddings: np.ndarray, name: str, *, half: bool = False, device: str = "cpu") -> Slide:
    """Normalise a slide's embeddings, float32 (N, D), and find every tile's nearest ones on it.

    `half` rounds the embeddings to float16 first, as plism-benchmark does; sums stay in float32. Raises UsageError for
    embeddings that are not finite, or zero.
    """
    if embeddings.ndim != 2 or not len(embeddings):
        raise UsageError(f"robustness: slide {name} holds embeddings of shape {embeddings.shape}; (N, D) is needed")
    values = torch.from_numpy(np.ascontiguousarray(embeddings, np.float32)).to(device)
    if half:
        values = values.half().float()
    norms = values.norm(dim=1, keepdim=True)
    if not torch.isfinite(norms).all() or not (norms > 0).all():
        raise UsageError(f"robustness: an embedding of slide {name} is not finite, or zero; embed the tiles again")
    unit = values / norms
    kept = min(max(TOP), len(unit) - 1)
    parts = []
    for start in range(0, len(unit), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit.T
        own = torch.arange(len(cosines), device=cosines.device)
        cosines[own, start + own] = -2.0
        parts.append(cosines.topk(kept, dim=1).values)
    return Slide(unit, torch.cat(parts))


def compare(a: Slide, b: Slide) -> dict[str, float]:
    """Return `FIGURES` of two slides of the same places in the same order. Of equal cosines, the twin comes first."""
    if a.unit.shape != b.unit.shape:
        raise UsageError(f"robustness: slides of shapes {tuple(a.unit.shape)} and {tuple(b.unit.shape)} do not match")
    count = len(a.unit)
    twin = torch.empty(count, device=a.unit.device)
    for rows, cosines in _blocks(a.unit, b.unit, diagonal=True):  # by the same product as below: equal stays equal
        twin[rows] = cosines.diagonal()
    ranks = [(slide.nearest > twin[:, None]).sum(1) for slide in (a, b)]
    for rows, cosines in _blocks(a.unit, b.unit):
        ranks[0][rows] += (cosines > twin[rows, None]).sum(1)
        ranks[1] += (cosines > twin).sum(0)
    ranked = torch.cat(ranks)
    hits = [float((ranked < k).double().mean()) for k in TOP]
    return dict(zip(FIGURES, (float(twin.double().mean()), *hits), strict=True))


def _blocks(a: Tensor, b: Tensor, diagonal: bool = False) -> Any:
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        yield rows, a[rows] @ (b[rows] if diagonal else b).T


def pairs(slides: Sequence[tuple[str, str]]) -> list[tuple[int, int, str]]:
    """Return every pair of slides, given as (staining, scanner), with the group it belongs to."""
    found = []
    for i, j in combinations(range(len(slides)), 2):
        same_staining, same_scanner = (slides[i][k] == slides[j][k] for k in (0, 1))
        # A second slide of one look is a pair of neither group; plism-benchmark has none.
        group = {(True, False): "scanner", (False, True): "staining", (False, False): "both"}.get(
            (same_staining, same_scanner), "neither"
        )
        found.append((i, j, group))
    return found


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return each group's figures over its pairs: median, interquartile range, mean, standard deviation (ddof 0).

    `rows` hold `group` and `FIGURES`. A group without a pair is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for group in GROUPS:
        of = [row for row in rows if group in ("all", row["group"])]
        if not of:
            continue
        figures: dict[str, Any] = {"pairs": len(of)}
        for figure in FIGURES:
            values = np.array([row[figure] for row in of])
            low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
            figures[figure] = {
                "median": float(median),
                "iqr": float(high - low),
                "mean": float(values.mean()),
                "std": float(values.std()),
            }
        found[group] = figures
    return found


def leaderboard(summary: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return PLISM's one number: the mean of four medians (cosine of all pairs, top-10 of the three groups).

    None where a group has no pairs, so that no other mean is taken for it.
    """
    if any(group not in summary for group in GROUPS):
        return None
    parts = [summary["all"]["cosine"]["median"]]
    parts += [summary[group]["top10"]["median"] for group in ("scanner", "staining", "both")]
    return float(np.mean(parts))
