"""PLISM's figures as plism-benchmark prints them by default: every step in float16, and its own order of neighbours.

Embeddings, their products, norms and cosines are each rounded to float16, and so is the mean cosine of a pair. For each
of the 2n tiles of slides A and B, one below the other, all are sorted by cosine, equal ones in the order of rows. The
first is dropped as if it were the tile itself, whichever it is, and the tile hits when its twin is among the k next.
That is the order of CuPy's `argpartition`, which sorts stably, and so of figures made on a GPU. NumPy's, on a CPU,
differs in a tile or two where many are equal.

So near 1, where cosines are multiples of 0.0005, these figures say more of rounding than of a model, and a slide held
against itself finds half of the twins: `plism` has figures to judge by.

Sums are in float32, as a GPU's and NumPy's are, in an order of their own: a product may be rounded to the float16 next
to theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from .plism import BLOCK, TOP, multiply, spans
from .results import FIGURES


@dataclass(frozen=True)
class HalfSlide:
    """A slide's embeddings (N, D), norms (N), and each tile's largest cosines on the slide (N, <= 11), with itself.

    All are float16's values: embeddings in the dtype that products are summed in, the rest in float32.
    """

    rows: Tensor
    norms: Tensor
    nearest: Tensor


def prepare_half(embeddings: np.ndarray, name: str, *, device: str = "cpu") -> HalfSlide:
    """Round a slide's embeddings, float32 (N, D), and find every tile's largest cosines on it.

    Raises UsageError where a norm or a product leaves float16: plism-benchmark's figures would be infinite, or none.
    """
    rows = _half(torch.from_numpy(np.ascontiguousarray(embeddings, np.float32)).to(device))
    norms = _half(_half(_half(rows * rows).sum(1)).sqrt())
    largest = torch.stack([_half(norms * norms), _half((rows * rows).sum(1))])
    if not torch.isfinite(largest).all() or not (norms > 0).all():
        raise UsageError(
            f"robustness: norms of slide {name} lie between {float(rows.norm(dim=1).min()):.3g} and "
            f"{float(rows.norm(dim=1).max()):.3g}; float16 holds none above 255 and no square below 6e-8: "
            "leave out --float16"
        )
    rows, blocks = rows.double() if len(rows) <= BLOCK else rows, spans(len(rows))
    cosines, kept = _Cosines(norms, _longest(blocks) * len(rows)), min(max(TOP) + 1, len(rows))
    parts = [cosines(rows[at], norms[at], rows, norms).topk(kept, dim=1).values for at in blocks]
    return HalfSlide(rows, norms, torch.cat(parts))


def compare_half(a: HalfSlide, b: HalfSlide) -> dict[str, float]:
    """Return `FIGURES` of two slides of the same places in the same order; the rows of `a` come first."""
    blocks = spans(len(a.rows))
    side = _longest(blocks)
    cosines, marks, ones = _Cosines(a.norms, side**2), a.norms.new_empty(side**2), a.norms.new_ones(side)

    def cosines_of(rows: slice, columns: slice) -> Tensor:
        return cosines(a.rows[rows], a.norms[rows], b.rows[columns], b.norms[columns])

    twin = torch.cat([cosines_of(at, at).diagonal().clone() for at in blocks])
    # How many rows come before the twin's. Of equal ones, all of A come before a twin in B, none of B before one in A;
    # on the other slide, those of earlier places do.
    first = [(a.nearest >= twin[:, None]).sum(1), (b.nearest > twin[:, None]).sum(1)]
    for rows in blocks:
        for columns in blocks:
            block = cosines_of(rows, columns)
            height, width = block.shape
            ahead = marks[: height * width].view(height, width)  # 1.0 where ahead: sums of so few are exact
            for_a, for_b = (
                torch.ge if on else torch.gt for on in (columns.start < rows.start, rows.start < columns.start)
            )
            first[0][rows] += (for_a(block, twin[rows, None], out=ahead) @ ones[:width]).long()
            first[1][columns] += (ones[:height] @ for_b(block, twin[columns], out=ahead)).long()
            if rows == columns:
                first[0][rows] += (block == twin[rows, None]).tril(-1).sum(1)
                first[1][columns] += (block == twin[columns]).triu(1).sum(0)
    place = torch.cat(first)  # 0 is the one that is dropped
    hits = [float(((place > 0) & (place <= k)).double().mean()) for k in TOP]
    return dict(zip(FIGURES, (float(_half(twin.mean())), *hits), strict=True))


class _Cosines:
    """Cosines as float16's values, float32 (rows, others), written to the same memory every time."""

    def __init__(self, like: Tensor, size: int) -> None:
        self._quotients, self._norms, self._half = (
            like.new_empty(size),
            like.new_empty(size),
            like.new_empty(size).half(),
        )

    def __call__(self, rows: Tensor, norms: Tensor, others: Tensor, other_norms: Tensor) -> Tensor:
        shape, size = (len(rows), len(others)), len(rows) * len(others)
        quotients, of_norms, half = (memory[:size].view(shape) for memory in (self._quotients, self._norms, self._half))
        multiply(rows, others, quotients)
        torch.mul(norms[:, None], other_norms, out=of_norms)
        for values in (quotients, of_norms):
            values.copy_(half.copy_(values))
        return quotients.copy_(half.copy_(quotients.div_(of_norms)))


def _longest(blocks: Sequence[slice]) -> int:
    longest: int = max(at.stop - at.start for at in blocks)
    return longest


def _half(values: Tensor) -> Tensor:
    return values.half().float()
