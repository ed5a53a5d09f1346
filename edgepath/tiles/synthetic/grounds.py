"""Grounds: the textures that fill a tile or a side of it, each with the cells that belong to it.

Amounts are optical densities along a stain's unit vector at strength 1: about 0.3 for cytoplasm, 0.4 for collagen, 0.9
for a dense nucleus, as colour deconvolution finds them in sections 3-5 micrometres thick. Lengths are in pixels of 0.5
micrometres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .cells import Cells, Generator, axes, mosaic_centres, ramp, scatter, slope
from .fields import F32, PERIOD, bank


@dataclass(frozen=True)
class Ground:
    """A texture that fills the canvas: dyes (3, S, S) without cells, and the cells that lie in it."""

    dyes: F32
    cells: list[Cells]


def any_ground(rng: Generator, size: int) -> Ground:
    makers: tuple[tuple[float, Callable[[Generator, int], Ground]], ...] = (
        (0.24, _collagen),
        (0.08, _smooth_fibres),
        (0.30, _sheet),
        (0.10, _lymphoid),
        (0.09, _fat),
        (0.10, _loose),
        (0.05, _necrosis),
        (0.04, _blood),
    )
    chosen = rng.choice(len(makers), p=[weight for weight, _ in makers])
    return makers[chosen][1](rng, size)


def _collagen(rng: Generator, size: int) -> Ground:
    """Wavy bundles with clefts between them, as in dermis and desmoplastic stroma."""
    return _fibres(rng, size, cleft=rng.uniform(-1.5, 0.1), eosin=rng.uniform(0.36, 0.55), pitch=rng.uniform(24, 48))


def _smooth_fibres(rng: Generator, size: int) -> Ground:
    """Muscle, or hyaline and bone-like matrix: no clefts, and nuclei from many to hardly any."""
    return _fibres(rng, size, cleft=-3.0, eosin=rng.uniform(0.32, 0.55), pitch=rng.uniform(24, 90))


def _fibres(rng: Generator, size: int, *, cleft: float, eosin: float, pitch: float) -> Ground:
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(0.8, 2.0)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    sway = bank().cloud.crop(rng, size) * np.float32(rng.uniform(3, 16))
    sway += bank().blotch.crop(rng, size) * np.float32(rng.uniform(0.5, 3.0))
    x, y = axes(size)
    along, across = x * cosine + y * sine, y * cosine - x * sine + sway
    start = rng.uniform(0, PERIOD, 2).astype(np.float32)
    along, across = along + start[0], across + start[1]
    bundle = bank().bundle.at(along * np.float32(stretch), across * np.float32(stretch))
    fibril = bank().fibril.at(along, across)
    # fibrils fray the bundles' edges, and part here and there within a bundle
    break_up = np.float32(0.35) * bank().blotch.crop(rng, size)
    body = ramp(bundle + np.float32(0.4) * fibril + break_up - np.float32(cleft), 0.6)
    body *= 1 - np.float32(0.6) * ramp(-fibril - np.float32(rng.uniform(1.1, 2.4)), 0.8)
    amount = 1 + np.float32(0.15) * bundle + np.float32(0.27) * fibril
    amount *= body * np.float32(eosin)
    dyes = _dyes(amount * np.float32(0.10) + body * np.float32(rng.uniform(0.0, 0.06)), amount)
    nuclei = scatter(rng, "stromal", size, pitch)
    # the tangent of the lines across = constant at each nucleus
    slope_x, slope_y = slope(sway, nuclei)
    nuclei = Cells(nuclei.kind, nuclei.x, nuclei.y, np.arctan2(sine - slope_x, cosine + slope_y))
    return Ground(dyes, [nuclei.where(np.float32(0.35) + np.float32(0.65) * body, rng)])


def _sheet(rng: Generator, size: int) -> Ground:
    """Packed epithelial or tumour cells, each with its border, cytoplasm and nucleus."""
    atypical = rng.random() < 0.35
    angle, wide = rng.uniform(0, np.pi), rng.uniform(0.62, 0.9) if atypical else rng.uniform(0.8, 1.25)
    scale = np.array((wide, wide * rng.uniform(0.95, 1.35)), np.float32)  # mosaic pixels per tile pixel
    start = rng.uniform(0, PERIOD, 2).astype(np.float32)
    turn = np.array(((np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))), np.float32)
    strength = np.float32(rng.uniform(2, 9))
    warp = np.stack([bank().cloud.crop(rng, size), bank().cloud.crop(rng, size)]) * strength
    x, y = axes(size)
    u, v = ((turn[i, 0] * x + turn[i, 1] * y) * scale[i] + warp[i] + start[i] for i in (0, 1))
    mosaic = bank().cells
    border, owner = mosaic.border.at(u, v), mosaic.cell.nearest(u, v).astype(np.int32)
    tint = rng.normal(1, 0.13, len(mosaic.centres)).astype(np.float32)[owner]
    texture = 1 + np.float32(0.10) * bank().granule.crop(rng, size) + np.float32(0.08) * bank().blotch.crop(rng, size)
    # a cell's border shows as a pale seam (retracted) or a dark one (membrane)
    seam = 1 - np.float32(rng.uniform(-0.25, 0.75)) * (1 - ramp(border - np.float32(1.2), 1.6))
    cytoplasm = texture * tint * seam
    nuclei = mosaic_centres(mosaic.centres, turn, scale, start, warp)
    kind = "atypical" if atypical and rng.random() < 0.5 else "epithelial"
    cells = Cells(kind, nuclei[0], nuclei[1], (rng.normal(angle, 0.4, len(nuclei[0]))).astype(np.float32))
    present = np.full((size, size), rng.uniform(0.7, 0.98), np.float32)
    basophilia = np.float32(rng.uniform(0.05, 0.24))
    return Ground(
        _dyes(cytoplasm * basophilia, cytoplasm * np.float32(rng.uniform(0.16, 0.38))), [cells.where(present, rng)]
    )


def _lymphoid(rng: Generator, size: int) -> Ground:
    """A lymphoid aggregate: small round nuclei with hardly any cytoplasm, paler where larger cells lie between them."""
    patches = bank().cloud.crop(rng, size)
    mesh = ramp(bank().granule.crop(rng, size) + np.float32(0.5), 1.2)
    small = scatter(rng, "lymphocyte", size, rng.uniform(12.5, 16)).where(ramp(patches + 1.3, 1.5), rng)
    large = scatter(rng, "epithelial", size, 30).where(ramp(-patches, 1.5), rng)
    return Ground(_dyes(mesh * np.float32(0.10), mesh * np.float32(0.17)), [small, large])


def _fat(rng: Generator, size: int) -> Ground:
    """Adipocytes: empty round vacuoles, thin septa, a few flat nuclei pressed against them."""
    x, y = axes(size)
    scale, strength = np.float32(rng.uniform(0.75, 1.5)), np.float32(rng.uniform(3, 7))
    u = x * scale + bank().cloud.crop(rng, size) * strength + np.float32(rng.uniform(0, PERIOD))
    v = y * scale + bank().cloud.crop(rng, size) * strength + np.float32(rng.uniform(0, PERIOD))
    border = bank().vacuoles.border.at(u, v)
    septum = np.exp(-np.square(border * np.float32(1 / rng.uniform(1.4, 3.0))))
    nuclei = scatter(rng, "stromal", size, 16)
    slope_x, slope_y = slope(border, nuclei)
    nuclei = Cells(nuclei.kind, nuclei.x, nuclei.y, np.arctan2(slope_x, -slope_y))
    eosin = septum * (np.float32(0.34) + np.float32(0.06) * bank().blotch.crop(rng, size))
    return Ground(_dyes(septum * np.float32(0.05), eosin), [nuclei.where(septum * np.float32(0.3), rng)])


def _loose(rng: Generator, size: int) -> Ground:
    """Oedematous or myxoid stroma: thin wisps in a pale, slightly blue ground."""
    x, y = axes(size)
    sway = bank().cloud.crop(rng, size) * np.float32(12)
    stretch, start = np.float32(rng.uniform(0.5, 1.1)), rng.uniform(0, PERIOD, 4).astype(np.float32)
    # where a smooth field crosses zero is a line: two fields of different grain make a web of fibres
    coarse = bank().blotch.at(x * stretch + sway + start[0], y + 0 * x + start[1])
    fine = bank().granule.at((x + sway) * np.float32(0.4) + start[2], (y - sway) * np.float32(0.4) + start[3])
    wisps = np.exp(-np.square(coarse * np.float32(rng.uniform(4.0, 7.0))))
    wisps += np.float32(0.6) * np.exp(-np.square(fine * np.float32(4.0)))
    matrix = np.float32(rng.uniform(0.02, 0.08))
    stromal = scatter(rng, "stromal", size, rng.uniform(30, 55))
    round_cells = scatter(rng, "lymphocyte", size, rng.uniform(40, 90))
    return Ground(
        _dyes(wisps * np.float32(0.03) + matrix, wisps * np.float32(rng.uniform(0.16, 0.3)) + matrix),
        [stromal, round_cells],
    )


def _necrosis(rng: Generator, size: int) -> Ground:
    """Granular eosinophilic debris, ghosts of cells, dust of broken nuclei."""
    texture = np.float32(0.22) * bank().granule.crop(rng, size) + np.float32(0.2) * bank().blotch.crop(rng, size)
    amount = (1 + texture) * np.float32(rng.uniform(0.24, 0.42))
    dust = scatter(rng, "debris", size, rng.uniform(11, 22)).where(ramp(bank().blotch.crop(rng, size), 1.5), rng)
    return Ground(_dyes(amount * np.float32(rng.uniform(0.1, 0.4)), amount), [dust])


def _blood(rng: Generator, size: int) -> Ground:
    """Red cells, packed or loose, in pale plasma with a few white cells."""
    plasma = np.float32(rng.uniform(0.01, 0.07)) * (1 + np.float32(0.2) * bank().blotch.crop(rng, size))
    red = scatter(rng, "red cell", size, rng.uniform(9.5, 13))
    red = red.where(ramp(bank().cloud.crop(rng, size) + np.float32(rng.uniform(0.5, 3)), 1.0), rng)
    return Ground(_dyes(np.zeros_like(plasma), plasma), [red, scatter(rng, "lymphocyte", size, 70)])


def _dyes(haematoxylin: F32, eosin: F32) -> F32:
    return np.stack([haematoxylin, eosin, np.zeros_like(eosin)])
