"""What haematoxylin and eosin take out of light: two published vectors each, and any between them."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Vector = tuple[float, float, float]

# Optical density per unit of dye in R, G, B. Each stain is a point on the line through two published vectors: hue 0 is
# Ruifrok & Johnston (Anal. Quant. Cytol. Histol. 23:291, 2001), hue 1 the reference of Macenko et al. (ISBI 2009).
HAEMATOXYLIN: tuple[Vector, Vector] = ((0.650, 0.704, 0.286), (0.5626, 0.7201, 0.4062))
EOSIN: tuple[Vector, Vector] = ((0.072, 0.990, 0.105), (0.2159, 0.8012, 0.5581))


def stain_vector(stain: tuple[Vector, Vector], hue: float) -> F64:
    """Return a stain's unit vector (3,): 0 = Ruifrok's and 1 = Macenko's; beyond them, none is below 0."""
    ruifrok, macenko = map(np.array, stain)
    return _unit(np.maximum((1 - hue) * ruifrok + hue * macenko, 0.0))


def stain_vectors(haematoxylin: float, eosin: float) -> F64:
    """Return unit vectors (3, 3) of both stains at their hues, and of a rest across them."""
    return np.stack([stain_vector(HAEMATOXYLIN, haematoxylin), stain_vector(EOSIN, eosin), _rest()])


@cache
def _rest() -> F64:
    """The direction across both stains' middle vectors: the same for every hue, so that what is no stain stays."""
    return _unit(np.cross(np.add(*HAEMATOXYLIN), np.add(*EOSIN)))


def _unit(vector: F64) -> F64:
    unit: F64 = vector / np.linalg.norm(vector)
    return unit
