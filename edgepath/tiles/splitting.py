"""Tiles to calibrate on, and others held out to measure drift on."""

from __future__ import annotations

import numpy as np

from ..errors import UsageError
from .source import TileSource

DEFAULT_TILES = 128
FEWEST = 16

HELD_OUT = 32


def split(tiles: TileSource, wanted: int) -> tuple[TileSource, TileSource]:
    """Split a source into calibration tiles and held-out tiles, both spread over it and without overlap.

    Raises UsageError when fewer than 16 tiles would be left to calibrate on, or fewer were asked for.
    """
    held = min(HELD_OUT, len(tiles) // 4)
    left = len(tiles) - held
    if min(left, wanted) < FEWEST:
        remedy = "add tiles, or calibrate on `synthetic`" if left < FEWEST else f"ask for {FEWEST} or more"
        raise UsageError(
            f"calibration: {tiles.name} has {len(tiles)} tiles, {wanted} were asked for; at least {FEWEST} are needed "
            f"besides a quarter (at most {HELD_OUT}) held out to measure drift; {remedy}"
        )
    held_out = spread(len(tiles), held)
    rest = sorted(set(range(len(tiles))) - set(held_out))
    chosen = [rest[i] for i in spread(len(rest), min(wanted, len(rest)))]
    return tiles.select(chosen), tiles.select(held_out)


def apart(chosen: TileSource, held_out: TileSource) -> tuple[TileSource, TileSource]:
    """Leave out held-out tiles whose pixels are among the chosen ones: a copy says nothing about other tiles."""
    for source in (chosen, held_out):
        source.provenance()  # decodes, and so knows the pixels
    seen = {chosen.digests[key] for key in chosen.keys if key in chosen.digests}
    kept = [i for i, key in enumerate(held_out.keys) if held_out.digests.get(key) not in seen]
    if not kept:
        raise UsageError(f"calibration: {chosen.name} holds copies of a few tiles only; add others to measure drift on")
    return chosen, held_out.select(kept)


def spread(count: int, wanted: int) -> list[int]:
    """Return indices of `wanted` of `count` items, evenly spaced: sorted keys put one slide's tiles side by side."""
    return [int(i) for i in (np.arange(wanted) + 0.5) * count / wanted]
