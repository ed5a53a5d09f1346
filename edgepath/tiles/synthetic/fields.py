"""What every tile is cut from: noise textures and cell mosaics; made once a process, from one fixed seed.

A tile takes random windows, angles and warps of these: it costs milliseconds, and still differs from the next. All
fields are periodic, so a window may start anywhere and have any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
I32: TypeAlias = NDArray[np.int32]
U8: TypeAlias = NDArray[np.uint8]

PERIOD = 512  # a power of two: wrapping an index is then one bitwise and


@dataclass(frozen=True)
class Field:
    """A periodic texture, float32 (PERIOD, PERIOD)."""

    values: F32

    def crop(self, rng: np.random.Generator, size: int) -> F32:
        """Return a window at a random place, flipped at random: float32 (size, size)."""
        top, left = rng.integers(PERIOD, size=2)
        down, right = 2 * rng.integers(2, size=2) - 1  # the same draw as choice((-1, 1), 2), but faster
        steps = np.arange(size)
        rows, columns = (top + down * steps) % PERIOD, (left + right * steps) % PERIOD
        # one axis after the other: several times faster than a look-up of both at once
        window: F32 = self.values.take(rows, 0).take(columns, 1)
        return window

    def at(self, x: F32, y: F32) -> F32:
        """Look the texture up at warped coordinates, bilinear; x and y are of one shape."""
        left, top = np.floor(x), np.floor(y)
        right_part, lower_part = x - left, y - top
        column, row = left.astype(np.int32), top.astype(np.int32)
        upper, lower = (row & (PERIOD - 1)) * PERIOD, ((row + 1) & (PERIOD - 1)) * PERIOD
        near, far = column & (PERIOD - 1), (column + 1) & (PERIOD - 1)
        texels = self.values.ravel()
        above, below = texels[upper + near], texels[lower + near]
        above += (texels[upper + far] - above) * right_part
        below += (texels[lower + far] - below) * right_part
        below -= above
        below *= lower_part
        above += below
        return above

    def nearest(self, x: F32, y: F32) -> F32:
        """Look the texture up at warped coordinates, without interpolation; x and y are of one shape."""
        column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
        return self.values.ravel()[(row & (PERIOD - 1)) * PERIOD + (column & (PERIOD - 1))]


@dataclass(frozen=True)
class Mosaic:
    """Cells that fill the plane: distance to the nearest border, the cell a pixel is of, and centres (n, 2) as x, y."""

    border: Field
    cell: Field
    centres: F32


@dataclass(frozen=True)
class Bank:
    """Everything tiles are cut from; the noise fields have mean 0 and standard deviation 1."""

    cloud: Field  # structures of 50 px: tissue borders, section thickness
    blotch: Field  # 15 px
    granule: Field  # 4 px
    grain: Field  # 1 px
    bundle: Field  # streaks along x, 150 x 10 px
    fibril: Field  # 60 x 3 px
    cells: Mosaic  # 21 px across
    vacuoles: Mosaic  # 85 px across
    chromatin: Field  # 4 px and 2 px


@lru_cache(maxsize=1)
def bank() -> Bank:
    """Make the bank, the same in every process."""
    rng = np.random.default_rng(20)
    cloud, blotch, granule, grain = (_noise(rng, width, width) for width in (28.0, 7.0, 2.0, 0.55))
    return Bank(
        cloud=cloud,
        blotch=blotch,
        granule=granule,
        grain=grain,
        bundle=_noise(rng, 70.0, 4.5),
        fibril=_noise(rng, 26.0, 1.3),
        cells=_mosaic(rng, 24),
        vacuoles=_mosaic(rng, 6),
        chromatin=Field((granule.values + _noise(rng, 1.0, 1.0).values) * np.float32(np.sqrt(0.5))),
    )


def _noise(rng: np.random.Generator, along: float, across: float) -> Field:
    """White noise through a Gaussian of the given standard deviations in pixels, filtered as a product of spectra."""
    spectrum = np.fft.rfft2(rng.standard_normal((PERIOD, PERIOD)))
    for sigma, axis, frequency in ((across, 0, np.fft.fftfreq(PERIOD)), (along, 1, np.fft.rfftfreq(PERIOD))):
        shape = (-1, 1) if axis == 0 else (1, -1)
        spectrum *= np.exp(-2 * (np.pi * sigma * frequency) ** 2).reshape(shape)
    spectrum[0, 0] = 0
    values = np.fft.irfft2(spectrum, (PERIOD, PERIOD))
    return Field((values / values.std()).astype(np.float32))


def _mosaic(rng: np.random.Generator, per_side: int) -> Mosaic:
    """Voronoi cells of a jittered grid; only the 3 x 3 grid cells around a pixel can hold its two nearest centres."""
    pitch = PERIOD / per_side
    rows, columns = np.meshgrid(np.arange(per_side), np.arange(per_side), indexing="ij")
    jitter = rng.uniform(-0.32, 0.32, (2, per_side, per_side))
    # every second row moves by half a cell: hexagons, as packed cells have, and no grid to be seen
    x = ((columns + 0.5 + 0.5 * (rows % 2) + jitter[0]) * pitch).astype(np.float32)
    y = ((rows + 0.5 + jitter[1]) * pitch).astype(np.float32)
    pixel = np.arange(PERIOD, dtype=np.float32)
    row, column = (pixel / pitch).astype(np.int32)[:, None], (pixel / pitch).astype(np.int32)[None, :]
    nearest = np.full((PERIOD, PERIOD), np.inf, np.float32)
    second, owner = nearest.copy(), np.zeros((PERIOD, PERIOD), np.float32)
    for down in (-1, 0, 1):
        for right in (-2, -1, 0, 1):  # one more to the left: odd rows stand half a cell to the right
            r, c = (row + down) % per_side, (column + right) % per_side
            distance: F32 = np.hypot(_wrap(pixel[None, :] - x[r, c]), _wrap(pixel[:, None] - y[r, c]))
            closer = distance < nearest
            second = np.minimum(second, np.where(closer, nearest, distance))
            owner = np.where(closer, (r * per_side + c).astype(np.float32), owner)
            nearest = np.minimum(nearest, distance)
    centres = np.stack([x.ravel() % PERIOD, y.ravel() % PERIOD], 1)
    return Mosaic(Field(((second - nearest) / 2).astype(np.float32)), Field(owner), centres)


def _wrap(offset: F32) -> F32:
    wrapped: F32 = (offset + PERIOD / 2) % PERIOD - PERIOD / 2
    return wrapped
