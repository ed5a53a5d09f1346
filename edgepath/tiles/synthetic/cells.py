"""Cells: where they lie, and stamping them onto a tile; with the small map helpers that the grounds share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .fields import F32, I32, PERIOD
from .nuclei import ANGLES, VARIANTS, stamps_of

PAD = 32  # room around the canvas for stamps that cross its edge; above the largest stamp's half width

Generator = np.random.Generator


@dataclass(frozen=True)
class Cells:
    """Cells of one kind to be stamped: centres in pixels and orientations in radians, each (n,)."""

    kind: str
    x: F32
    y: F32
    angle: F32

    def where(self, keep: F32, rng: Generator) -> Cells:
        """Keep each cell with the probability that the map `keep` has at its centre."""
        chosen = rng.random(len(self.x)) < sample(keep, self.x, self.y)
        return Cells(self.kind, self.x[chosen], self.y[chosen], self.angle[chosen])


def scatter(rng: Generator, kind: str, size: int, pitch: float) -> Cells:
    """Spread cells over the canvas on a jittered hexagonal grid: irregular, yet seldom on top of each other."""
    steps = int((size + 2 * PAD) / pitch) + 1
    rows, columns = np.mgrid[0:steps, 0:steps]
    jitter = rng.uniform(-0.36, 0.36, (2, steps, steps))
    x = ((columns + 0.5 * (rows % 2) + jitter[0]) * pitch - PAD / 2).ravel().astype(np.float32)
    y = ((rows + jitter[1]) * pitch - PAD / 2).ravel().astype(np.float32)
    return Cells(kind, x, y, rng.uniform(0, np.pi, steps * steps).astype(np.float32))


def mosaic_centres(centres: F32, turn: F32, scale: F32, start: F32, warp: F32) -> tuple[F32, F32]:
    """Find where a mosaic's centres lie on the tile: the inverse of the sheet's map, its warp undone in one step."""
    size = warp.shape[1]
    corners = np.array([(x, y) for x in (-PAD, size + PAD) for y in (-PAD, size + PAD)], np.float32)
    mapped = (corners @ turn.T) * scale + start
    first, last = np.floor(mapped.min(0) / PERIOD).astype(int), np.floor(mapped.max(0) / PERIOD).astype(int)
    periods = np.array([(i, j) for i in range(first[0], last[0] + 1) for j in range(first[1], last[1] + 1)], np.float32)
    x, y = ((((centres + periods[:, None] * PERIOD).reshape(-1, 2) - start) / scale) @ turn).T
    moved = (np.stack([sample(warp[0], x, y), sample(warp[1], x, y)], 1) / scale) @ turn
    x, y = x - moved[:, 0], y - moved[:, 1]
    near = (x > -PAD) & (x < size + PAD) & (y > -PAD) & (y < size + PAD)
    return x[near], y[near]


def stamp(rng: Generator, dyes: F32, kinds: list[Cells]) -> F32:
    """Stamp the cells over the ground, nuclei over red cells; where two overlap, the denser one shows."""
    size = dyes.shape[1]
    nuclei, red = (np.zeros((2, size + 2 * PAD, size + 2 * PAD), np.float32) for _ in range(2))
    for cells in kinds:
        stamps = stamps_of(cells.kind)
        half = stamps.shape[-1] // 2
        canvas = red if cells.kind == "red cell" else nuclei
        angles = np.round(cells.angle * np.float32(ANGLES / np.pi)).astype(np.int32) % ANGLES
        shapes = stamps[angles, rng.integers(VARIANTS, size=len(angles))]
        tops, lefts = (np.round(c).astype(np.int32) + (PAD - half) for c in (cells.y, cells.x))
        highest = canvas.shape[1] - 2 * half - 1
        for shape, top, left in zip(shapes, tops.tolist(), lefts.tolist(), strict=True):
            if 0 <= top <= highest and 0 <= left <= highest:
                view = canvas[:, top : top + 2 * half + 1, left : left + 2 * half + 1]
                np.maximum(view, shape, out=view)
    inner = np.s_[:, PAD:-PAD, PAD:-PAD]
    (cover, density), (red_cover, red_density) = nuclei[inner], red[inner]
    dyes = dyes * (1 - np.maximum(cover * np.float32(0.75), red_cover * np.float32(0.85)))
    dyes[0] += density * np.float32(rng.normal(1, 0.1))
    dyes[2] += red_density * (1 - cover)
    return dyes


def axes(size: int) -> tuple[F32, F32]:
    """Pixel coordinates that broadcast to a canvas: x (1, size) and y (size, 1)."""
    steps = np.arange(size, dtype=np.float32)
    return steps[None, :], steps[:, None]


def ramp(values: F32, width: float) -> F32:
    """Ramp from 0 to 1 over `width`, centred on 0."""
    ramped: F32 = values * np.float32(1 / width) + np.float32(0.5)
    return np.clip(ramped, 0, 1, out=ramped)


def _index(values: F32, size: int) -> I32:
    index: I32 = values.astype(np.int32)
    return np.minimum(np.maximum(index, 0), size - 1)  # np.clip takes three times as long for the few cells of a tile


def sample(field: F32, x: F32, y: F32) -> F32:
    """The field at points; beyond the canvas, its nearest border."""
    values: F32 = field[_index(y, field.shape[0]), _index(x, field.shape[1])]
    return values


def slope(field: F32, cells: Cells) -> tuple[F32, F32]:
    """Central differences of a field, over 4 pixels either way, at cell centres."""
    x, y = cells.x, cells.y
    along_x = (sample(field, x + 4, y) - sample(field, x - 4, y)) / np.float32(8)
    along_y = (sample(field, x, y + 4) - sample(field, x, y - 4)) / np.float32(8)
    return along_x, along_y
