"""Procedural slides: pieces of procedural tissue on glass, as a tiled pyramid of a TIFF that says its scale."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from ..._version import __version__
from ...errors import UsageError
from ...machine.cache import cache_folder
from ...machine.packages import require
from ...machine.writing import replacing
from ..synthetic import SCANNERS, STAININGS, synthesize

TILE = 512  # of the file, pixels
DOWNSAMPLES = (1, 4, 16)
MOST_SLIDES, MOST_SEED = 1000, 1_000_000
_GLASS = (243, 242, 244)
_COARSE = 32  # pixels of the finest level that one of the tissue's outline spans
_LARGEST_PIECE = 3000  # pixels, a radius: what is drawn grows with the pieces, not with the slide


def write_synthetic_slide(
    path: str | Path,
    *,
    seed: int = 0,
    width: int = 4096,
    height: int = 3072,
    mpp: float = 0.5,
    pieces: int = 3,
    staining: str = STAININGS[0],
    scanner: str = SCANNERS[0],
) -> Path:
    """Write a slide of `width` x `height` pixels with some `pieces` of tissue and return its path.

    `mpp` is what the file says a pixel spans, in um; the tissue is drawn as at 0.5. Memory and time grow with the
    tissue, not with the slide: all but glass is kept of the coarser levels, and nothing of the finest. The same
    arguments draw the same tissue. Raises UsageError for sizes that are not of a slide.
    """
    require("tifffile", "slides")
    import tifffile

    if min(width, height) < TILE or pieces < 0 or not mpp > 0:
        raise UsageError(f"synthetic slide: {width} x {height} pixels, {pieces} pieces; give {TILE} or more, 0 or more")
    slide = _Slide(width, height, seed, pieces, staining, scanner)
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for downsample in DOWNSAMPLES:
            shape = (-(-height // downsample), -(-width // downsample), 3)
            file.write(
                slide.tiles(downsample),
                shape=shape,
                dtype=np.uint8,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="zlib",
                subfiletype=int(downsample > 1),
                resolution=(1e4 / mpp / downsample,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
                software="edgepath",
            )
    return Path(path)


def synthetic_slides(count: int, seed: int = 0) -> list[Path]:
    """Return `count` procedural slides, of different stainings and scanners, written to the cache when first asked."""
    if not (1 <= count <= MOST_SLIDES and 0 <= seed < MOST_SEED):
        raise UsageError(f"{count} synthetic slides of seed {seed}: give 1 to {MOST_SLIDES}, and 0 to {MOST_SEED - 1}")
    folder = cache_folder() / "slides" / __version__
    slides = [folder / f"synthetic-{seed}-{number:03d}.tif" for number in range(count)]
    for number, path in enumerate(slides):
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            staining, scanner = STAININGS[number % len(STAININGS)], SCANNERS[number % len(SCANNERS)]
            with replacing(path, "slide") as partial:
                write_synthetic_slide(partial, seed=seed * MOST_SLIDES + number, staining=staining, scanner=scanner)
    return slides


class _Slide:
    """What is drawn: tiles of the finest level in the order of the file, and what they add up to in coarser ones."""

    def __init__(self, width: int, height: int, seed: int, pieces: int, staining: str, scanner: str) -> None:
        self._shape = (-(-height // TILE), -(-width // TILE))
        self._outline = _outline(np.random.default_rng((seed, 7)), width, height, pieces)
        self._seed, self._staining, self._scanner = seed, staining, scanner
        self._coarser: dict[int, dict[tuple[int, int], np.ndarray]] = {downsample: {} for downsample in DOWNSAMPLES[1:]}

    def tiles(self, downsample: int) -> Iterator[bytes]:
        """Yield a level's tiles row by row, compressed; the finest level has to be the first that is asked for."""
        glass = zlib.compress(_glass().tobytes())
        for row, column in np.ndindex(*(-(-side // downsample) for side in self._shape)):
            tile = self._drawn(row, column) if downsample == 1 else self._coarser[downsample].get((row, column))
            yield glass if tile is None else zlib.compress(tile.tobytes(), 1)

    def _drawn(self, row: int, column: int) -> np.ndarray | None:
        """Draw a tile of the finest level, and into the coarser ones; None for one of glass."""
        cells = TILE // _COARSE
        here = self._outline[row * cells : (row + 1) * cells, column * cells : (column + 1) * cells]
        if not here.any():
            return None
        index = row * self._shape[1] + column
        tissue = synthesize(1, seed=self._seed, start=index, size=TILE, staining=self._staining, scanner=self._scanner)[
            0
        ]
        share = _enlarged(self._outline, row * cells, column * cells, cells)[..., None]
        tile: np.ndarray = np.rint(tissue * share + np.array(_GLASS, np.float32) * (1 - share)).astype(np.uint8)
        for downsample, level in self._coarser.items():
            side = TILE // downsample
            into = level.setdefault((row // downsample, column // downsample), _glass())
            top, left = row % downsample * side, column % downsample * side
            into[top : top + side, left : left + side] = np.asarray(Image.fromarray(tile).reduce(downsample))
        return tile


def _outline(rng: np.random.Generator, width: int, height: int, pieces: int) -> np.ndarray:
    """Draw where tissue is, float32 (h, w) from 0 to 1: frayed blobs, a margin of glass around."""
    shape = (-(-height // _COARSE), -(-width // _COARSE))
    outline = np.zeros(shape, np.float32)
    radius = min(0.28 * min(shape) / max(1, pieces) ** 0.5, _LARGEST_PIECE / _COARSE)
    reach = int(3 * radius) + 2
    for _ in range(pieces):
        at = [rng.uniform(1.3 * radius, max(1.4 * radius, side - 1.3 * radius)) for side in shape]
        rows, columns = (slice(max(0, int(centre) - reach), int(centre) + reach) for centre in at)
        y, x = np.mgrid[rows.start : min(rows.stop, shape[0]), columns.start : min(columns.stop, shape[1])]
        angle = np.arctan2(y - at[0], x - at[1])
        waves = sum(rng.uniform(0, 0.3 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 12))
        distance = np.hypot(y - at[0], (x - at[1]) * rng.uniform(0.7, 1.3)) / (radius * (1 + waves))
        outline[rows, columns] = np.maximum(outline[rows, columns], ((1 - distance) * radius / 2 + 0.5).clip(0, 1))
    return outline


def _enlarged(outline: np.ndarray, row: int, column: int, cells: int) -> np.ndarray:
    """Return a part of the outline at the finest level's pixels, float32 (TILE, TILE), smooth across its edges."""
    padded = np.pad(outline, ((1, cells + 1), (1, cells + 1)))
    around = padded[row : row + cells + 2, column : column + cells + 2]
    large = Image.fromarray(around).resize(
        (TILE, TILE), Image.Resampling.BICUBIC, box=(1.0, 1.0, cells + 1.0, cells + 1.0)
    )
    return np.asarray(large).clip(0, 1)


def _glass() -> np.ndarray:
    return np.full((TILE, TILE, 3), _GLASS, np.uint8)
