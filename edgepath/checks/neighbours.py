"""Nearest neighbours by cosine, block by block so that no N x N matrix is held; of ties, the right one comes first."""

from __future__ import annotations

import numpy as np

_TWINS, _NEAREST = 1024, 512  # rows of a block
_TIE = 1e-9  # cosines closer than this are the same: batches of another size round float32 embeddings differently


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Return embeddings (N, D) as unit rows, float64."""
    wide = embeddings.astype(np.float64)
    rows: np.ndarray = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return rows


def twin_ranks(queries: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return how many of `known` are nearer to each of `queries` than its twin in the same row; unit rows (N, D)."""
    ranks = []
    for start in range(0, len(queries), _TWINS):
        similarity = queries[start : start + _TWINS] @ known.T
        twins = similarity.diagonal(start)[:, None]
        ranks.append((similarity > twins + _TIE).sum(axis=1))
    return np.concatenate(ranks)


def own_share(queries: np.ndarray, known: np.ndarray) -> float:
    """Return the share of `queries` whose nearest of `known` is their twin; unit rows (N, D) both."""
    return float((twin_ranks(queries, known) == 0).mean())


def shared_neighbours(reference: np.ndarray, candidate: np.ndarray, k: int) -> float:
    """Return the mean share of a row's `k` nearest other rows that both agree on; unit rows (N, D) both.

    Where the reference has ties for the last of them, as among blank tiles, each of the tied counts.
    """
    shared = 0
    for start in range(0, len(reference), _NEAREST):
        rows = slice(start, start + _NEAREST)
        by_reference, by_candidate = _to_others(reference, rows), _to_others(candidate, rows)
        farthest = np.partition(by_reference, -k, axis=1)[:, -k, None]
        nearest = np.argpartition(by_candidate, -k, axis=1)[:, -k:]
        shared += int((np.take_along_axis(by_reference, nearest, axis=1) >= farthest - _TIE).sum())
    return shared / (len(reference) * k)


def _to_others(rows_of: np.ndarray, rows: slice) -> np.ndarray:
    similarity: np.ndarray = rows_of[rows] @ rows_of.T
    index = np.arange(len(similarity))
    similarity[index, index + rows.start] = -np.inf  # a tile is not its own neighbour
    return similarity
