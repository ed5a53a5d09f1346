"""PLISM's figures over a set of slides, beside the same definitions computed with whole matrices in NumPy.

13 slides of 2,713 tiles, 768 numbers each, 78 pairs; and three of 8,139, the size of PLISM's published figures, taken
for all 4,095 pairs. The whole-matrix way is timed on one pair and taken 78 times; it
holds a matrix of (2 n) x (2 n) and keeps nothing of a slide for the next pair.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from edgepath.robust.metrics import TOP, compare, prepare

Record = Callable[[str, Any], None]
SLIDES, PLACES, DIM = 13, 2713, 768


@pytest.fixture(scope="module")
def slides() -> list[np.ndarray]:
    """Embeddings of the same places, the more noise the later the slide."""
    rng = np.random.default_rng(0)
    places = rng.standard_normal((PLACES, DIM)).astype(np.float32)
    return [places + (0.5 + i / 4) * rng.standard_normal(places.shape).astype(np.float32) for i in range(SLIDES)]


def whole(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Return cosine and hits in the top k, by the definition."""
    rows = np.concatenate([a, b])
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T / (norms * norms.T)
    count = len(a)
    figures = [float(np.diag(cosines[:count, count:]).mean())]
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argpartition(-cosines, range(max(TOP)), axis=1)[:, : max(TOP)]
    twin = np.concatenate([np.arange(count, 2 * count), np.arange(count)])[:, None]
    return [*figures, *(float((nearest[:, :k] == twin).any(1).mean()) for k in TOP)]


def test_a_set_of_slides_is_ten_times_faster_than_whole_matrices(slides: list[np.ndarray], record: Record) -> None:
    torch.set_num_threads(2)
    whole(*slides[:2])  # warm-up
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        wanted = whole(*slides[:2])
        taken.append(time.perf_counter() - start)
    start = time.perf_counter()
    ready = [prepare(slide, str(i)) for i, slide in enumerate(slides)]
    found = [compare(ready[i], ready[j]) for i, j in combinations(range(SLIDES), 2)]
    ours = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(5):
        ready[0].unit @ ready[1].unit.T
    product = (time.perf_counter() - start) / 5
    assert list(found[0].values())[1:] == wanted[1:], "the same tiles hit"
    assert found[0]["cosine"] == pytest.approx(wanted[0], abs=1e-6)
    theirs = float(np.median(taken)) * len(found)
    record(
        "PLISM figures, 13 slides of 2,713 x 768 in float32",
        {
            "whole matrices, one pair, seconds (n = 3)": [round(value, 2) for value in taken],
            "ours, 78 pairs, seconds": round(ours, 2),
            "one product of two slides, seconds (n = 5)": round(product, 3),
            "ratio": round(theirs / ours, 1),
            "peak memory of the process, GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        },
    )
    assert theirs / ours >= 10


def test_all_pairs_of_plism_take_about_an_hour(record: Record) -> None:
    torch.set_num_threads(2)
    places, count, every = 8139, 3, 91 * 90 // 2
    rng = np.random.default_rng(1)
    base = rng.standard_normal((places, DIM)).astype(np.float32)
    start = time.perf_counter()
    ready = [
        prepare(base + (1 + i / 4) * rng.standard_normal(base.shape).astype(np.float32), str(i)) for i in range(count)
    ]
    prepared = (time.perf_counter() - start) / count
    taken, busy = [], []
    for i, j in combinations(range(count), 2):
        start, worked = time.perf_counter(), time.process_time()
        compare(ready[i], ready[j])
        taken.append(time.perf_counter() - start)
        busy.append(time.process_time() - worked)
    record(
        "PLISM figures, slides of 8,139 x 768 in float32",
        {
            "a pair, seconds": [round(value, 2) for value in taken],
            "a pair, seconds of a core": [round(value, 2) for value in busy],
            "a slide alone, seconds": round(prepared, 2),
            "91 slides and 4,095 pairs, minutes, extrapolated": round(
                (91 * prepared + every * float(np.median(taken))) / 60, 1
            ),
            "peak memory of the process, GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        },
    )
    assert every * float(np.median(taken)) < 5400
