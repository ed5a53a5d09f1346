"""Twins are found as a loop over rows finds them, in however many blocks; of ties, the twin comes first."""

from __future__ import annotations

import numpy as np
import pytest

from edgepath.checks import neighbours
from edgepath.checks.neighbours import own_share, shared_neighbours, twin_ranks, unit


def rows(count: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    known = rng.standard_normal((count, 6)).astype(np.float32)
    return unit(known + rng.standard_normal(known.shape)), unit(known)


def test_ranks_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, known = rows()
    wanted = [sum(query @ row > query @ known[i] for row in known) for i, query in enumerate(queries)]
    assert twin_ranks(queries, known).tolist() == wanted
    assert 0 < own_share(queries, known) == np.mean([rank == 0 for rank in wanted]) < 1
    shared = shared_neighbours(queries, known, 5)
    monkeypatch.setattr(neighbours, "_TWINS", 7)
    monkeypatch.setattr(neighbours, "_NEAREST", 7)
    assert twin_ranks(queries, known).tolist() == wanted
    assert shared_neighbours(queries, known, 5) == shared


def test_equal_rows_are_each_others_twins() -> None:
    same = unit(np.repeat(rows(1)[0], 9, axis=0))
    assert own_share(same, same) == 1
    assert shared_neighbours(same, same, 3) == 1
