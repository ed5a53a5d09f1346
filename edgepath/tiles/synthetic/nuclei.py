"""Nuclei and red cells, drawn once a process as stamps: every kind in every orientation, in several shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .fields import F32, PERIOD, bank

ANGLES = 24  # orientations a nucleus is kept in: steps of 7.5 degrees over half a turn, finer than the eye sees
VARIANTS = 6  # shapes per orientation

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class NucleusKind:
    """Shape and chromatin of one kind of nucleus; lengths are half axes in pixels of 0.5 micrometres."""

    long: float
    short: float
    spread: float  # relative standard deviation of the half axes
    ragged: float  # relative amplitude of the outline's harmonics
    density: float  # haematoxylin inside
    clumps: float  # relative contrast of the chromatin texture
    rim: float  # haematoxylin added along the membrane
    nucleoli: int = 0
    bend: float = 0.0


KINDS: dict[str, NucleusKind] = {
    "lymphocyte": NucleusKind(6.2, 5.6, 0.11, 0.04, 0.98, 0.30, 0.12),
    "epithelial": NucleusKind(8.6, 6.2, 0.13, 0.04, 0.55, 0.34, 0.32, nucleoli=1),
    "columnar": NucleusKind(8.2, 4.1, 0.13, 0.04, 0.72, 0.28, 0.22),
    "stromal": NucleusKind(11.0, 2.5, 0.24, 0.10, 0.85, 0.22, 0.08, bend=3.0),
    "atypical": NucleusKind(11.5, 8.5, 0.22, 0.10, 0.65, 0.42, 0.30, nucleoli=2),
    "debris": NucleusKind(3.2, 2.6, 0.35, 0.12, 1.10, 0.10, 0.00),
    "red cell": NucleusKind(6.2, 5.7, 0.08, 0.04, 0.42, 0.05, 0.16),  # not a nucleus, but stamped as one
}


@cache
def stamps_of(name: str) -> F32:
    """Return a kind's stamps, float32 (ANGLES, VARIANTS, 2, k, k): coverage 0..1, and coverage x density; k is odd."""
    kind = KINDS[name]
    rng = np.random.default_rng((21, list(KINDS).index(name)))
    half = int(np.ceil(kind.long * (1 + 2 * kind.spread) * (1 + 2.5 * kind.ragged))) + 2  # the largest there can be
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    long, short = (length * (1 + kind.spread * _normal(rng).clip(-2, 2)) for length in (kind.long, kind.short))
    u, v = _turned(rng, x, y)
    v = v - kind.bend * _uniform(rng, -1, 1) * (u / long) ** 2
    inside = _depth(u, v, long, short, _outline(rng, u / long, v / short, kind.ragged))
    coverage = np.clip(inside / 1.6 + 0.5, 0, 1)  # the edge is soft over 1.6 pixels
    columns, rows = (_uniform(rng, 0, PERIOD).astype(np.int32) + axis for axis in (x, y))
    chromatin = bank().chromatin.nearest(columns.astype(np.float32), rows.astype(np.float32))
    density = kind.density * (1 + kind.clumps * chromatin) * (1 + 0.15 * _normal(rng))
    density += kind.rim * np.exp(-((inside / 1.3 - 0.6) ** 2))
    for _ in range(kind.nucleoli):
        along, across = u - _uniform(rng, -0.45, 0.45) * long, v - _uniform(rng, -0.45, 0.45) * short
        density += 0.55 * np.exp(-(along**2 + across**2) / _uniform(rng, 1.0, 3.2))
    covered = coverage.any(axis=(0, 1))
    used = np.abs(np.argwhere(covered) - half).max() + 1  # stamping costs by area: no empty border but one pixel's
    inner = np.s_[..., half - used : half + used + 1, half - used : half + used + 1]
    return np.stack([coverage, coverage * np.maximum(density, 0.05)], 2).astype(np.float32)[inner]


def _turned(rng: np.random.Generator, x: F64, y: F64) -> tuple[F64, F64]:
    """Pixel coordinates in each stamp's own frame, moved by part of a pixel so that no two share a raster."""
    angle = (np.arange(ANGLES).reshape(-1, 1, 1, 1) + _uniform(rng, -0.5, 0.5)) * (np.pi / ANGLES)
    dx, dy = x - _uniform(rng, -0.5, 0.5), y - _uniform(rng, -0.5, 0.5)
    return dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)


def _outline(rng: np.random.Generator, u: F64, v: F64, ragged: float) -> F64:
    """How far the outline lies out in each direction, around 1: a sum of a few harmonics."""
    theta, outline = np.arctan2(v, u), np.ones_like(u)
    for harmonic in (2, 3, 4, 5):
        amplitude = (ragged * _normal(rng) * 2 / harmonic).clip(-0.25, 0.25)
        outline += amplitude * np.cos(harmonic * theta + _uniform(rng, 0, 2 * np.pi))
    return np.minimum(outline, 1 + 2.5 * ragged)


def _depth(u: F64, v: F64, long: F64, short: F64, outline: F64) -> F64:
    """Pixels inside the outline, negative outside: the level set's value over its slope, exact to first order."""
    radius = np.maximum(np.hypot(u / long, v / short), 1e-6)
    slope = np.maximum(np.hypot(u / long**2, v / short**2) / radius, 1 / np.maximum(long, short))
    return (outline - radius) / slope


def _normal(rng: np.random.Generator) -> F64:
    return rng.standard_normal((ANGLES, VARIANTS, 1, 1))


def _uniform(rng: np.random.Generator, low: float, high: float) -> F64:
    return rng.uniform(low, high, (ANGLES, VARIANTS, 1, 1))
