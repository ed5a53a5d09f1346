"""Glands and vessels: closed outlines with a wall and a lumen, put into a ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .cells import Cells, Generator, axes, ramp, scatter
from .fields import F32, bank
from .grounds import Ground


@dataclass(frozen=True)
class Ring:
    """A wavy ellipse: in its own polar frame the outline is radius x (1 + amplitude cos(waves theta + phase))."""

    x: float
    y: float
    radius: float
    angle: float
    squeeze: float  # short axis over long axis
    waves: int
    phase: float
    amplitude: float

    def window(self, size: int) -> tuple[slice, slice]:
        """The part of the canvas the ring can touch, as (rows, columns); empty where it lies outside."""
        reach = 1.3 * self.radius
        rows, columns = (np.clip((c - reach, c + reach), 0, size).astype(int).tolist() for c in (self.y, self.x))
        return slice(*rows), slice(*columns)

    def depth(self, size: int) -> tuple[F32, F32]:
        """In the window: pixels inside the outline (negative outside), and the polar angle."""
        rows, columns = self.window(size)
        x, y = axes(size)
        x, y = x[:, columns] - np.float32(self.x), y[rows] - np.float32(self.y)
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u, v = x * cosine + y * sine, (y * cosine - x * sine) / np.float32(self.squeeze)
        theta = np.arctan2(v, u)
        outline = 1 + np.float32(self.amplitude) * np.cos(self.waves * theta + np.float32(self.phase))
        depth = np.float32(self.radius) * outline - np.hypot(u, v)
        # v is stretched by 1 / squeeze: this brings depths back to pixels, on average
        return depth * np.float32((1 + self.squeeze) / 2), theta

    def nuclei(self, rng: Generator, kind: str, count: int, depth: float, spread: float, turn: float) -> Cells:
        """Put nuclei along the outline, `depth` inside it, turned by `turn` from pointing outward."""
        theta = (np.arange(count) + rng.normal(0, 0.2, count)) * (2 * np.pi / count)
        outline = self.radius * (1 + self.amplitude * np.cos(self.waves * theta + self.phase))
        reach = outline - depth - rng.normal(0, spread, count)
        u, v = reach * np.cos(theta), reach * np.sin(theta) * self.squeeze
        dx, dy = u * np.cos(self.angle) - v * np.sin(self.angle), u * np.sin(self.angle) + v * np.cos(self.angle)
        x, y, angle = (a.astype(np.float32) for a in (self.x + dx, self.y + dy, np.arctan2(dy, dx) + turn))
        return Cells(kind, x, y, angle)


def with_gland(rng: Generator, ground: Ground) -> Ground:
    """Add a gland: columnar cells around a lumen that is empty or holds secretion; some have mucin towards it."""
    size = ground.dyes.shape[1]
    ring = _place(rng, size, rng.uniform(26, 62))
    wall = min(rng.uniform(17, 28), ring.radius * 0.85)
    depth, theta = ring.depth(size)
    count = max(int(2 * np.pi * ring.radius / 9), 6)
    # two incommensurate waves: wedges of unequal width, as cells around a lumen have
    seams = np.cos(theta * np.float32(count)) + np.float32(0.5) * np.cos(theta * np.float32(count * 0.61))
    mucin = ramp(depth - np.float32(0.5 * wall), 4.0) * np.float32(rng.choice((0.0, 0.3, 0.85)))
    eosin = np.float32(rng.uniform(0.2, 0.36)) * (1 - mucin) * (1 + np.float32(0.08) * seams)
    carved = _carve(rng, ground, ring, depth, wall, eosin, rng.uniform(0.06, 0.2), rng.choice((0.0, 0.03, 0.15)))
    nuclei = ring.nuclei(rng, "columnar", count, wall * rng.uniform(0.32, 0.5), 0.09 * wall, turn=0.0)
    return Ground(carved.dyes, [*carved.cells, nuclei])


def with_vessel(rng: Generator, ground: Ground) -> Ground:
    """Add a small vessel: a thin wall with flat nuclei along it, most often full of red cells."""
    size = ground.dyes.shape[1]
    ring = _place(rng, size, rng.uniform(9, 26))
    wall = rng.uniform(2.5, 5)
    depth, _ = ring.depth(size)
    carved = _carve(rng, ground, ring, depth, wall, np.full_like(depth, 0.4), 0.06, 0.02)
    count = max(int(2 * np.pi * ring.radius / 30), 3)
    cells = [*carved.cells, ring.nuclei(rng, "stromal", count, wall / 2, 0.0, turn=np.pi / 2)]
    if rng.random() < 0.7:
        full = np.zeros((size, size), np.float32)
        full[ring.window(size)] = ramp(depth - np.float32(wall + 4), 2.0)
        cells.append(scatter(rng, "red cell", size, 10.5).where(full, rng))
    return Ground(carved.dyes, cells)


def _place(rng: Generator, size: int, radius: float) -> Ring:
    x, y = rng.uniform(-0.1 * size, 1.1 * size, 2)
    waves, phase, amplitude = int(rng.integers(2, 6)), rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.14)
    return Ring(x, y, radius, rng.uniform(0, np.pi), rng.uniform(0.6, 1.0), waves, phase, amplitude)


def _carve(
    rng: Generator, ground: Ground, ring: Ring, depth: F32, wall: float, eosin: F32, blue: float, secretion: float
) -> Ground:
    """Replace what lies inside the ring by its wall and lumen, cells included."""
    size = ground.dyes.shape[1]
    rows, columns = ring.window(size)
    inside, lumen = ramp(depth, 1.5), ramp(depth - np.float32(wall), 2.0)
    grainy = eosin * (1 + np.float32(0.1) * bank().granule.crop(rng, size)[rows, columns])
    dyes = ground.dyes.copy()
    patch = dyes[:, rows, columns]
    patch *= 1 - inside
    patch[0] += (inside - lumen) * np.float32(blue) + lumen * np.float32(0.3 * secretion)
    patch[1] += (inside - lumen) * grainy + lumen * np.float32(secretion)
    outside = np.ones((size, size), np.float32)
    outside[rows, columns] -= ramp(depth + np.float32(2.5), 1.0)
    return Ground(dyes, [cells.where(outside, rng) for cells in ground.cells])
