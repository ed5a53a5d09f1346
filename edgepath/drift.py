"""How far one set of embeddings lies from another, tile by tile and as a neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .errors import EdgepathError

NEIGHBOURS = 10
_BLOCK = 512


@dataclass(frozen=True)
class Drift:
    """Figures of `candidate` against `reference` over `tiles` tiles; all float, none rounded.

    `cosine_*` is the cosine of a tile's two embeddings (1 = same direction), `relative_l2` the mean of
    |candidate - reference| / |reference|, `neighbour_overlap` the mean share of a tile's `neighbours` nearest tiles (by
    cosine) that both agree on (1 with a single tile, `neighbours` = 0).
    `worst` names the tiles with the smallest cosine, worst first.
    """

    tiles: int
    cosine_mean: float
    cosine_p01: float
    cosine_min: float
    relative_l2: float
    neighbour_overlap: float
    neighbours: int
    worst: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the figures as JSON-able values."""
        return asdict(self) | {"worst": list(self.worst)}


def measure(reference: np.ndarray, candidate: np.ndarray, keys: Sequence[str] = ()) -> Drift:
    """Compare two sets of embeddings, both float32 (N, D) in the same order; `keys` name the N tiles.

    Raises EdgepathError when shapes differ, when there are no tiles, or when an embedding is not finite or is zero.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or not len(reference):
        raise EdgepathError(f"drift: embeddings of shape {reference.shape} and {candidate.shape} cannot be compared")
    for name, values in (("reference", reference), ("candidate", candidate)):
        norms = np.linalg.norm(values.astype(np.float64), axis=1)
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if len(bad):
            tile = keys[bad[0]] if keys else f"tile {bad[0]}"
            raise EdgepathError(f"drift: the {name} embedding of {tile} is not finite or zero ({len(bad)} such tiles)")
    cosines = np.einsum("nd,nd->n", _unit(reference), _unit(candidate)).clip(-1.0, 1.0)
    a, b = reference.astype(np.float64), candidate.astype(np.float64)
    relative = np.linalg.norm(b - a, axis=1) / np.linalg.norm(a, axis=1)
    k = min(NEIGHBOURS, len(a) - 1)
    order = np.argsort(cosines, kind="stable")[:5]
    return Drift(
        tiles=len(a),
        cosine_mean=float(cosines.mean()),
        cosine_p01=float(np.quantile(cosines, 0.01)),
        cosine_min=float(cosines.min()),
        relative_l2=float(relative.mean()),
        neighbour_overlap=_overlap(_unit(reference), _unit(candidate), k) if k else 1.0,
        neighbours=k,
        worst=tuple(keys[i] for i in order) if keys else (),
    )


def _unit(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float64)
    unit: np.ndarray = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def _overlap(a: np.ndarray, b: np.ndarray, k: int) -> float:
    """Mean share of common tiles among the k nearest, in blocks of rows so that no N x N matrix is held."""
    shared = 0
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        near_a, near_b = _nearest(a, rows, k), _nearest(b, rows, k)
        shared += sum(len(np.intersect1d(x, y)) for x, y in zip(near_a, near_b, strict=True))
    return shared / (len(a) * k)


def _nearest(unit: np.ndarray, rows: slice, k: int) -> np.ndarray:
    similarity = unit[rows] @ unit.T
    index = np.arange(len(similarity))
    similarity[index, index + rows.start] = -np.inf  # a tile is not its own neighbour
    return np.argpartition(-similarity, k - 1, axis=1)[:, :k]
