"""What a laboratory, a scanner or a file format does to a tile, by degrees: uint8 (S, S, 3) in and out.

Each takes a tile, a degree in the unit its axis names, and a generator for what is left to chance (which stain took
more, which way a scanner tints); the same draw serves all degrees, so a curve is one slide getting worse.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..tiles.stains import stain_vectors

U8 = NDArray[np.uint8]
F64 = NDArray[np.float64]
Generator = np.random.Generator
_LEVELS = np.arange(256)  # what happens to each level alone is looked up, not computed pixel by pixel


@dataclass(frozen=True)
class Perturbation:
    """A name, what its degrees are, the degrees from none to much, and how a tile gets there."""

    name: str
    unit: str
    degrees: tuple[float, ...]
    apply: Callable[[U8, float, Generator], U8]


def restain(tile: U8, degree: float, rng: Generator) -> U8:
    """Change both stains' amounts by `degree` (0.3: 30 % more or less), each its own way, in optical density.

    Stains are unmixed with the mean of Ruifrok & Johnston's (2001) and Macenko's (2009) vectors.
    """
    stains = stain_vectors(0.5, 0.5)
    signs = np.array([*rng.choice((-1.0, 1.0), 2), 0.0])
    density = -np.log(np.maximum(_LEVELS, 0.5) / 255.0)[tile]
    changed = density @ np.linalg.inv(stains) * (1 + degree * signs) @ stains
    return _levels(np.exp(-changed))


def tint(tile: U8, degree: float, rng: Generator) -> U8:
    """Mix the channels by a matrix whose rows sum to 1, off its diagonal by up to `degree`: grey stays grey."""
    off = rng.uniform(-degree, degree, (3, 3)) if degree else np.zeros((3, 3))
    np.fill_diagonal(off, 0.0)
    matrix = off + np.diag(1 - off.sum(1))
    return _levels(tile / 255.0 @ matrix.T)


def gamma(tile: U8, degree: float, rng: Generator) -> U8:
    """Raise light to the power exp(+-degree), as another tone curve does."""
    return _levels((_LEVELS / 255.0) ** np.exp(degree * rng.choice((-1.0, 1.0))))[tile]


def brighten(tile: U8, degree: float, rng: Generator) -> U8:
    """Make light `degree` stronger or weaker (0.1: by 10 %), clipped at white."""
    return _levels(_LEVELS / 255.0 * (1 + degree * rng.choice((-1.0, 1.0))))[tile]


def compress(tile: U8, degree: float, rng: Generator) -> U8:
    """Write and read the tile as JPEG of quality 100 - `degree`; 0 leaves it as it is."""
    if not degree:
        return tile
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=round(100 - degree))
    return np.array(Image.open(buffer))


def defocus(tile: U8, degree: float, rng: Generator) -> U8:
    """Blur with a Gaussian of `degree` pixels' standard deviation."""
    return np.array(Image.fromarray(tile).filter(ImageFilter.GaussianBlur(degree)))


def resample(tile: U8, degree: float, rng: Generator) -> U8:
    """Scale down by `degree` and up again, bicubic: a slide scanned at a lower magnification."""
    image, size = Image.fromarray(tile), tile.shape[0]
    small = max(1, round(size / degree))
    return np.array(
        image.resize((small, small), Image.Resampling.BICUBIC).resize((size, size), Image.Resampling.BICUBIC)
    )


def turn(tile: U8, degree: float, rng: Generator) -> U8:
    """Turn by `degree` quarters; from 4 on, the mirror image of that. No pixel changes its value."""
    turned = np.rot90(tile, int(degree) % 4)
    return np.ascontiguousarray(turned[:, ::-1] if degree >= 4 else turned)


PERTURBATIONS = (
    Perturbation("staining", "change of the stains' amounts", (0.0, 0.1, 0.2, 0.3, 0.4), restain),
    Perturbation("scanner colour", "mixing of the channels", (0.0, 0.05, 0.1, 0.15, 0.2), tint),
    Perturbation("tone curve", "log of gamma", (0.0, 0.1, 0.2, 0.3, 0.4), gamma),
    Perturbation("brightness", "change of light", (0.0, 0.05, 0.1, 0.15, 0.2), brighten),
    Perturbation("JPEG", "100 - quality", (0.0, 20.0, 40.0, 60.0, 80.0), compress),
    Perturbation("defocus", "Gaussian, pixels", (0.0, 0.5, 1.0, 2.0, 3.0), defocus),
    Perturbation("lower resolution", "times", (1.0, 1.5, 2.0, 3.0, 4.0), resample),
    Perturbation("turned", "quarters; from 4 mirrored", (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0), turn),
)


def perturb(perturbation: Perturbation, tiles: U8, degree: float, seed: int = 0) -> U8:
    """Return tiles, uint8 (N, S, S, 3), to a degree; a tile's draws depend on `seed` and its number only."""
    draws = (np.random.default_rng((seed, i)) for i in range(len(tiles)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(perturbation.apply, tiles, repeat(degree), draws)))


def _levels(light: F64) -> U8:
    return (np.clip(light, 0, 1) * 255 + 0.5).astype(np.uint8)
