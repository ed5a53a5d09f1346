"""What a tile shows: one or two grounds, then glands, vessels, inflammation and the section's edge."""

from __future__ import annotations

import numpy as np

from .cells import Generator, axes, ramp, scatter, stamp
from .fields import F32, bank
from .grounds import Ground, any_ground
from .rings import with_gland, with_vessel

REACH = 8  # pixels drawn beyond each edge, so that a shifted tile is the same tissue


def grow(rng: Generator, size: int) -> F32:
    """Draw one tile's tissue: float32 (3, size + 2 REACH, size + 2 REACH): haematoxylin, eosin, red cells."""
    size += 2 * REACH
    ground = any_ground(rng, size)
    if rng.random() < 0.5:
        ground = _beside(rng, ground, any_ground(rng, size))
    if rng.random() < 0.35:
        ground = _infiltrated(rng, ground, size)
    for _ in range(int(rng.choice((0, 1, 2, 5, 9), p=(0.5, 0.15, 0.1, 0.15, 0.1)))):
        ground = with_gland(rng, ground)
    for _ in range(int(rng.choice((0, 1, 3), p=(0.6, 0.3, 0.1)))):
        ground = with_vessel(rng, ground)
    dyes = stamp(rng, ground.dyes, ground.cells)
    # protein is granular down to the limit of the optics
    dyes[:2] *= 1 + np.float32(0.15) * bank().granule.crop(rng, size) + np.float32(0.13) * bank().grain.crop(rng, size)
    # a section is thicker here and thinner there, and every block and bath takes the dyes a little differently
    dyes *= (1 + np.float32(0.08) * bank().cloud.crop(rng, size)).clip(0.6, 1.4)
    dyes *= rng.normal(1.0, (0.12, 0.15, 0.1)).clip(0.7, 1.35).astype(np.float32)[:, None, None]
    if rng.random() < 0.22:
        dyes *= _edge(rng, size)
    return np.maximum(dyes, 0, out=dyes)


def _beside(rng: Generator, first: Ground, second: Ground) -> Ground:
    """Let two grounds share the canvas along a smooth border."""
    size = first.dyes.shape[1]
    line = bank().cloud.crop(rng, size) + np.float32(0.12) * bank().blotch.crop(rng, size)
    share = ramp(line - np.float32(rng.normal(0, 0.7)), rng.uniform(0.04, 0.12))
    dyes = second.dyes + (first.dyes - second.dyes) * share
    cells = [cells.where(share, rng) for cells in first.cells] + [cells.where(1 - share, rng) for cells in second.cells]
    return Ground(dyes, cells)


def _infiltrated(rng: Generator, ground: Ground, size: int) -> Ground:
    """Add lymphocytes, in streams and clusters, where there is matrix to hold them."""
    density = ramp(bank().cloud.crop(rng, size) - np.float32(rng.uniform(-0.3, 1.5)), 1.2)
    density *= np.minimum(ground.dyes[1] * 8 + np.float32(0.05), 1)
    lymphocytes = scatter(rng, "lymphocyte", size, rng.uniform(14, 24)).where(density, rng)
    return Ground(ground.dyes, [*ground.cells, lymphocytes])


def _edge(rng: Generator, size: int) -> F32:
    """The share of each pixel that is tissue and not glass, for a tile at the section's frayed border."""
    x, y = axes(size)
    angle = rng.uniform(0, 2 * np.pi)
    across = (x - size / 2) * np.float32(np.cos(angle) / 70) + (y - size / 2) * np.float32(np.sin(angle) / 70)
    across = across + np.float32(0.45) * bank().cloud.crop(rng, size)
    across += np.float32(0.12) * bank().blotch.crop(rng, size)
    across += np.float32(0.035) * bank().granule.crop(rng, size)
    return ramp(across - np.float32(rng.uniform(-1.4, 1.1)), 0.06)
