"""How far one set of embeddings lies from another, tile by tile and as a neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..bundle.drift import Drift as Drift
from ..errors import EdgepathError
from .neighbours import shared_neighbours, unit

NEIGHBOURS = 10


def measure(reference: np.ndarray, candidate: np.ndarray, keys: Sequence[str] = ()) -> Drift:
    """Compare two sets of embeddings, both float32 (N, D) in the same order; `keys` name the N tiles.

    Raises EdgepathError when shapes differ, when there are no tiles, when there are not as many keys as tiles, or when
    an embedding is not finite or is zero.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or not len(reference):
        raise EdgepathError(f"drift: embeddings of shape {reference.shape} and {candidate.shape} cannot be compared")
    if keys and len(keys) != len(reference):
        raise EdgepathError(f"drift: {len(reference)} embeddings for {len(keys)} tiles; measure the same tiles again")
    for name, values in (("reference", reference), ("candidate", candidate)):
        norms = np.linalg.norm(values.astype(np.float64), axis=1)
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if len(bad):
            tile = keys[bad[0]] if keys else f"tile {bad[0]}"
            raise EdgepathError(f"drift: the {name} embedding of {tile} is not finite or zero ({len(bad)} such tiles)")
    cosine = cosines(reference, candidate)
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    relative = np.linalg.norm(b - a, axis=1) / np.linalg.norm(a, axis=1)
    k = min(NEIGHBOURS, len(a) - 1)
    order = np.argsort(cosine, kind="stable")[:5]
    return Drift(
        tiles=len(a),
        cosine_mean=float(cosine.mean()),
        cosine_p01=float(np.quantile(cosine, 0.01)),
        cosine_min=float(cosine.min()),
        relative_l2=float(relative.mean()),
        neighbour_overlap=shared_neighbours(unit(reference), unit(candidate), k) if k else 1.0,
        neighbours=k,
        worst=tuple(keys[i] for i in order) if keys else (),
    )


def cosines(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Return the cosine of every tile's two embeddings, float64 (N,), of two sets that `measure` takes."""
    cosine: np.ndarray = np.einsum("nd,nd->n", unit(reference), unit(candidate)).clip(-1.0, 1.0)
    return cosine
