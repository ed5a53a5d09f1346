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
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from ..machine.progress import Progress, silent
from .feature_folder import load_features
from .slides import SlideSet

TOP = (1, 3, 5, 10)
FIGURES = ("cosine", *(f"top{k}" for k in TOP))
GROUPS = ("scanner", "staining", "both", "all")
"""Pairs that differ in the scanner only, in the staining only, in both, and all pairs."""
_BLOCK = 768  # rows and columns of a block, at most: 2 MB
_HELD = 1 << 30  # bytes of unit embeddings held at once


@dataclass(frozen=True)
class Slide:
    """A slide's embeddings, unit rows (N, D), and each tile's cosines to its ten nearest on the slide (N, <= 10).

    Rows are float32, or float64 where one block holds them all.
    """

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
    count, spans = len(values), _spans(len(values))
    unit = values.double() / norms.double() if count <= _BLOCK else values / norms
    kept, parts = min(max(TOP), count - 1), []
    strip = values.new_empty(max(rows.stop - rows.start for rows in spans), count)
    for rows in spans:
        cosines = _multiply(unit[rows], unit, strip[: rows.stop - rows.start])
        cosines.diagonal(rows.start).fill_(-2.0)
        parts.append(cosines.topk(kept, dim=1).values)
    return Slide(unit, torch.cat(parts))


def compare(a: Slide, b: Slide) -> dict[str, float]:
    """Return `FIGURES` of two slides of the same places in the same order. Of equal cosines, the twin comes first."""
    if a.unit.shape != b.unit.shape:
        raise UsageError(f"robustness: slides of shapes {tuple(a.unit.shape)} and {tuple(b.unit.shape)} do not match")
    spans = _spans(len(a.unit))
    side = max(rows.stop - rows.start for rows in spans)
    held, marks, ones = a.nearest.new_empty(side**2), a.nearest.new_empty(side**2), a.nearest.new_ones(side)

    def cosines_of(rows: slice, columns: slice) -> Tensor:
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return _multiply(a.unit[rows], b.unit[columns], held[: height * width].view(height, width))

    twin = torch.cat([cosines_of(rows, rows).diagonal().clone() for rows in spans])
    ranks = [(slide.nearest > twin[:, None]).sum(1, dtype=torch.int32) for slide in (a, b)]
    for rows in spans:
        for columns in spans:
            cosines = cosines_of(rows, columns)
            height, width = cosines.shape
            nearer = marks[: height * width].view(height, width)  # 1.0 where nearer: sums of so few are exact
            ranks[0][rows] += (torch.gt(cosines, twin[rows, None], out=nearer) @ ones[:width]).int()
            ranks[1][columns] += (ones[:height] @ torch.gt(cosines, twin[columns], out=nearer)).int()
    ranked = torch.cat(ranks)
    hits = [float((ranked < k).double().mean()) for k in TOP]
    return dict(zip(FIGURES, (float(twin.double().mean()), *hits), strict=True))


def measure_slides(
    slides: SlideSet,
    files: Mapping[str, Path],
    dim: int,
    *,
    half: bool = False,
    device: str = "cpu",
    say: Progress = silent,
) -> list[dict[str, Any]]:
    """Return PLISM's figures of every pair of slides, from their files of features (see `feature_folder`).

    Slides are compared block by block, so that no more than 1 GiB of them is held.
    """
    of_slide = slides.places * dim * 4
    block = max(1, _HELD // (2 * of_slide))

    @lru_cache(maxsize=2 * block)
    def get(index: int) -> Slide:
        slide = slides.slides[index]
        return prepare(load_features(files[slide.name], slide, dim), slide.name, half=half, device=device)

    found = []
    everything = pairs([(slide.staining, slide.scanner) for slide in slides.slides])
    ordered = sorted(everything, key=lambda pair: (pair[0] // block, pair[1] // block))
    for number, (a, b, group) in enumerate(ordered):
        names = [slides.slides[i].name for i in (a, b)]
        found.append({"of": names, "group": group} | compare(get(a), get(b)))
        say("compare", number + 1, len(ordered))
    return found


def _spans(count: int) -> list[slice]:
    """Return spans of nearly equal length, `_BLOCK` at most, so that none is a rest of one row: a product with a vector
    sums up in another order."""
    parts = -(-count // _BLOCK)
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def _multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """Write a @ b.T to `out`, float32: new memory for every block would take as long as the product."""
    return torch.mm(a, b.T, out=out) if a.dtype == out.dtype else out.copy_(a @ b.T)


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
