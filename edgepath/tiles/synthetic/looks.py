"""How tissue looks: 13 stainings (dye -> light) and 7 scanners (light -> pixels).

The names are PLISM's, so that figures line up with its tables. The values are not measured from PLISM: they span what
laboratories and scanners do to a slide. A name ending in H is the same protocol with more haematoxylin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from ..stains import EOSIN, HAEMATOXYLIN, Vector, stain_vector
from .fields import F32, U8, bank

# Red cells take up eosin, and haemoglobin itself absorbs blue (its Soret band, 400-430 nm): more orange than eosin.
RED_CELLS = (0.12, 0.80, 0.59)


@dataclass(frozen=True)
class Staining:
    """One H&E protocol: hues on the lines above, strengths that multiply the dye, haematoxylin left in the ground."""

    haematoxylin_hue: float
    haematoxylin: float
    eosin_hue: float
    eosin: float
    ground: float = 0.0


STAINING_TABLE: dict[str, Staining] = {
    "GIV": Staining(0.2, 0.85, 0.65, 0.95),
    "GIVH": Staining(0.0, 1.25, 0.65, 0.90, 0.10),
    "GM": Staining(0.8, 0.85, 0.45, 0.90),
    "GMH": Staining(0.7, 1.20, 0.45, 0.90, 0.08),
    "GV": Staining(-0.4, 0.80, 0.85, 1.05),
    "GVH": Staining(-0.5, 1.20, 0.85, 0.95, 0.12),
    "HR": Staining(1.2, 1.00, 0.75, 1.15, 0.04),
    "HRH": Staining(1.5, 1.40, 0.75, 1.05, 0.18),
    "KR": Staining(0.5, 0.70, 0.30, 0.70),
    "KRH": Staining(0.4, 1.05, 0.30, 0.75, 0.20),
    "LM": Staining(1.0, 0.75, 1.10, 1.10),
    "LMH": Staining(1.2, 1.10, 1.10, 1.05, 0.06),
    "MY": Staining(-0.2, 0.65, 0.55, 0.60),
}


@dataclass(frozen=True)
class Scanner:
    """One scanner: colour matrix (rows sum to 1, so grey stays grey), white point in levels, gamma, MTF, noise."""

    matrix: tuple[Vector, Vector, Vector]
    white: Vector
    gamma: float
    softness: float  # outer taps of the 3-tap kernel along both axes: above 0 blurs, below 0 sharpens
    noise_levels: float


def colour_matrix(saturation: float, to_red: float, to_blue: float) -> tuple[Vector, Vector, Vector]:
    """Return what spreads the channels about their mean, and lets red and blue see some of green; rows sum to 1."""
    away, toward = (1 + 2 * saturation) / 3, (1 - saturation) / 3
    return (
        (away - to_red, toward + to_red, toward),
        (toward, away, toward),
        (toward, toward + to_blue, away - to_blue),
    )


SCANNER_TABLE: dict[str, Scanner] = {
    "AT2": Scanner(colour_matrix(1.10, 0.00, 0.02), (243.0, 243.0, 243.0), 1.10, 0.04, 2.2),
    "GT450": Scanner(colour_matrix(1.16, -0.03, -0.04), (247.0, 246.0, 248.0), 0.90, -0.06, 1.6),
    "P": Scanner(colour_matrix(1.02, 0.04, 0.10), (238.0, 234.0, 240.0), 1.00, 0.10, 1.2),
    "S210": Scanner(colour_matrix(1.06, 0.10, 0.00), (232.0, 231.0, 230.0), 1.20, 0.08, 2.6),
    "S360": Scanner(colour_matrix(1.12, 0.08, -0.06), (240.0, 238.0, 246.0), 1.00, -0.03, 1.8),
    "S60": Scanner(colour_matrix(1.04, 0.14, -0.02), (228.0, 230.0, 236.0), 1.05, 0.12, 2.0),
    "SQ": Scanner(colour_matrix(0.92, -0.04, 0.14), (246.0, 243.0, 232.0), 0.85, 0.17, 1.4),
}


def stain(dyes: F32, staining: Staining) -> F32:
    """Turn dye amounts (3, S, S: haematoxylin, eosin, red cells) into transmitted RGB light, float32 (3, S, S) in 0..1.

    Beer-Lambert: light = 10 ** -(sum over dyes of amount x vector).
    """
    haematoxylin = stain_vector(HAEMATOXYLIN, staining.haematoxylin_hue).astype(np.float32)
    eosin = stain_vector(EOSIN, staining.eosin_hue).astype(np.float32)
    red_cells = stain_vector((RED_CELLS, RED_CELLS), 0.0).astype(np.float32)
    columns = np.array(
        [
            haematoxylin * staining.haematoxylin,
            eosin * staining.eosin + haematoxylin * staining.ground,
            red_cells * (0.4 + 0.6 * staining.eosin),
        ],
        np.float32,
    ).T
    light: F32 = np.tensordot(columns * np.float32(-np.log(10.0)), dyes, 1)
    return np.exp(light, out=light)


def scan(light: F32, scanner: Scanner, rng: np.random.Generator) -> U8:
    """Turn light (3, S, S) into pixels, uint8 (S, S, 3): optics, colour matrix, tone curve, white point, noise."""
    light = _soften(_soften(light, scanner.softness, 1), scanner.softness, 2)
    light = np.tensordot(np.array(scanner.matrix, np.float32), light, 1)
    # A table is several times faster than a power of every pixel; its 4096 steps lie below a tenth of a level.
    curve = _tone_curve(scanner.gamma)
    np.clip(light, 0.0, 1.0, out=light)
    light = curve[(light * np.float32(len(curve) - 1) + np.float32(0.5)).astype(np.int32)]
    light *= np.array(scanner.white, np.float32)[:, None, None]
    size = light.shape[1]
    for channel in light:
        channel += bank().grain.crop(rng, size) * np.float32(scanner.noise_levels)
    light += np.float32(0.5)
    return np.clip(light, 0.0, 255.0, out=light).astype(np.uint8).transpose(1, 2, 0)


def _soften(light: F32, outer: float, axis: int) -> F32:
    """Convolve with (outer, 1 - 2 outer, outer) along one axis; the border pixel stands in for what lies beyond it."""
    moved = np.moveaxis(light, axis, 0)
    padded = np.concatenate([moved[:1], moved, moved[-1:]])
    soft = padded[:-2] + padded[2:]
    soft *= np.float32(outer)
    soft += moved * np.float32(1 - 2 * outer)
    return np.moveaxis(soft, 0, axis)


@cache
def _tone_curve(gamma: float) -> F32:
    return (np.linspace(0.0, 1.0, 4096) ** gamma).astype(np.float32)
