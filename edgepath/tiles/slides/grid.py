"""One grid a slide: where tiles lie. Coordinates are unique, inside the slide, and in reading order."""

from __future__ import annotations

import numpy as np

from ...errors import UsageError
from .scale import Scale
from .tissue import Tissue

MOST_TILES = 5_000_000
"""More places on one slide than this are refused: a slide of 100,000 x 100,000 has 200,000 of 224 pixels."""


def make_grid(
    width: int, height: int, scale: Scale, tissue: Tissue, *, overlap: int = 0, tissue_share: float = 0.1
) -> np.ndarray:
    """Return the top left corners of tiles, int64 (N, 2) of x, y in pixels of the finest level, row by row.

    `overlap` is in pixels of a tile. A tile that would reach over the right or lower edge is left out, as is one with
    less than `tissue_share` of tissue; one grid for the whole slide, so pieces of tissue share no tile.
    """
    if not 0 <= overlap < scale.size:
        raise UsageError(f"overlap {overlap}: give 0 to {scale.size - 1} pixels of a tile")
    if not 0 <= tissue_share <= 1:
        raise UsageError(f"tissue share {tissue_share}: give 0 to 1")
    step = 1 - overlap / scale.size
    xs, ys = _starts(width, scale.width, step), _starts(height, scale.height, step)
    if len(xs) * len(ys) > MOST_TILES:
        raise UsageError(
            f"{len(xs)} x {len(ys)} tiles on one slide, at most {MOST_TILES} are cut; ask for less overlap, or for "
            "larger or coarser tiles"
        )
    corners = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    if tissue.everywhere:
        return corners
    kept: np.ndarray = corners[tissue.shares(corners, scale.width, scale.height) >= max(tissue_share, 1e-9)]
    return kept


def _starts(length: int, side: float, step: float) -> np.ndarray:
    """Return where tiles of `side` begin along one axis, `step` of a side apart, int64."""
    count = int((length - side) / (side * step) + 1e-9) + 1 if length >= side else 0
    if count > MOST_TILES:
        return np.arange(count)  # refused by their number
    # Steps below a pixel, of tiles that are enlarged and overlap, would begin two tiles in one place.
    starts = np.unique(np.rint(np.arange(count) * side * step).astype(np.int64))
    inside: np.ndarray = starts[starts + side <= length + 1e-6]
    return inside
