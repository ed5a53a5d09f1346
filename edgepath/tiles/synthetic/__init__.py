"""Procedural H&E tiles: the tile source that needs no file, and the same tissue in 13 stainings and on 7 scanners.

A tile is drawn in three steps: `tissue` places cells, fibres, glands, fat, blood and glass as maps of dye amount;
`looks.stain` turns dye into light with a staining's vectors; `looks.scan` turns light into pixels as a scanner does.
Only the first step depends on the tile, so one tile in two looks is one piece of tissue, registered to the pixel.

The tiles resemble tissue at 0.5 mpp (20x) in colour, contrast and texture. They are for calibration, drift and
robustness when no real tiles are at hand; no figure measured on them replaces one measured on tissue.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ...errors import UsageError, did_you_mean
from .fields import F32, U8
from .looks import SCANNER_TABLE, STAINING_TABLE, scan, stain
from .tissue import REACH, grow

STAININGS: tuple[str, ...] = tuple(STAINING_TABLE)
"""The 13 staining names of PLISM (Ochi et al., Scientific Data 11, 330, 2024); see `looks` for what is behind them."""

SCANNERS: tuple[str, ...] = tuple(SCANNER_TABLE)
"""The 7 scanner names of PLISM; see `looks`."""

MAX_SHIFT = REACH
"""Largest misregistration `synthesize` draws, in pixels."""


def synthesize(
    count: int,
    *,
    seed: int = 0,
    staining: str | None = None,
    scanner: str | None = None,
    size: int = 224,
    start: int = 0,
    shift: tuple[int, int] = (0, 0),
) -> U8:
    """Draw tiles `start` to `start + count - 1` of a seed: uint8 RGB, (count, size, size, 3), 0.5 micrometres a pixel.

    Tile i of a seed and size is the same tissue whatever the staining and scanner, and does not depend on `count`. With
    None, the staining or scanner is the one `look_of` gives for the tile. `shift` = (dx, dy), at most `MAX_SHIFT`
    pixels either way, moves the tissue right and down, as a slide registered with that error would show it.

    The same arguments give the same bytes on one machine; elsewhere, another NumPy may round a pixel by one level.

    Raises UsageError for an unknown name, a negative count, seed or start, a size below 32, or too large a shift.
    """
    _check_name("staining", staining, STAININGS)
    _check_name("scanner", scanner, SCANNERS)
    for name, value, least in (("count", count, 0), ("seed", seed, 0), ("start", start, 0), ("size", size, 32)):
        if value < least:
            raise UsageError(f"synthetic tiles: {name} = {value}; give {least} or more")
    if max(abs(shift[0]), abs(shift[1])) > MAX_SHIFT:
        raise UsageError(f"synthetic tiles: shift = {shift}; give at most {MAX_SHIFT} pixels either way")
    x, y = map(int, shift)
    tiles = np.empty((count, size, size, 3), np.uint8)
    for position in range(count):
        index = start + position
        default_staining, default_scanner = look_of(index, seed)
        tiles[position] = _draw(index, seed, staining or default_staining, scanner or default_scanner, size, (x, y))
    return tiles


def look_of(index: int, seed: int = 0) -> tuple[str, str]:
    """Return the (staining, scanner) in which tile `index` of a seed is drawn when none is asked for.

    Every run of 91 tiles, from a multiple of 91 on, holds each of the 91 pairs once, in an order of its own.
    """
    pairs = len(STAININGS) * len(SCANNERS)
    if seed < 0 or index < 0:
        raise UsageError(f"synthetic tiles: tile {index} of seed {seed}; give 0 or more for both")
    order = np.random.default_rng((seed, index // pairs, 1)).permutation(pairs)
    which = int(order[index % pairs])
    return STAININGS[which // len(SCANNERS)], SCANNERS[which % len(SCANNERS)]


@lru_cache(maxsize=256)  # every INT8 export of a process calibrates on the same looks; 38 MB at 224 pixels
def _draw(index: int, seed: int, staining: str, scanner: str, size: int, shift: tuple[int, int]) -> U8:
    # Streams of their own: what the scanner draws (its noise) must not move the tissue, and the reverse.
    dyes = _grown(index, seed, size)
    x, y = REACH - shift[0], REACH - shift[1]
    light = stain(dyes[:, y : y + size, x : x + size], STAINING_TABLE[staining])
    look = STAININGS.index(staining) * len(SCANNERS) + SCANNERS.index(scanner)
    return scan(light, SCANNER_TABLE[scanner], np.random.default_rng((seed, index, 3, look)))


@lru_cache(maxsize=64)  # tissue takes seven times as long as a look of it, and is asked for in 91; 44 MB at 224 pixels
def _grown(index: int, seed: int, size: int) -> F32:
    dyes = grow(np.random.default_rng((seed, index, 2)), size)
    dyes.setflags(write=False)
    return dyes


def _check_name(what: str, name: str | None, known: tuple[str, ...]) -> None:
    if name is not None and name not in known:
        raise UsageError(f'synthetic tiles: {what} "{name}" is unknown; {did_you_mean(name, known)}')
