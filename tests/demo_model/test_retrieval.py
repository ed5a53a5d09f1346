"""Places are found again as a loop over pairs finds them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgepath.errors import UsageError
from tools.demo_model.retrieval import retrieve


def test_retrieval_is_what_a_loop_over_places_finds() -> None:
    rng = np.random.default_rng(4)
    places = rng.standard_normal((15, 8))
    scanners = {name: places + noise * rng.standard_normal((15, 8)) for name, noise in (("A", 0.2), ("B", 1), ("C", 2))}
    found = retrieve(scanners)
    cosines, first, ten = [], [], []
    for one, other in itertools.permutations(scanners, 2):
        for i, query in enumerate(scanners[one]):
            scores = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in scanners[other]]
            better = sum(score > scores[i] for score in scores)
            cosines.append(scores[i])
            first.append(better < 1)
            ten.append(better < 10)
    assert found.cosine == pytest.approx(np.mean(cosines))
    assert found.top1 == pytest.approx(np.mean(first))
    assert found.top10 == pytest.approx(np.mean(ten))
    assert 0 < found.top1 < found.top10
    assert (found.places, found.scanners) == (15, 3)


def test_equal_tiles_are_each_others_twins() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(rng.standard_normal((1, 384)), 12, axis=0).astype(np.float32)
    noisy = (same + 1e-7 * rng.standard_normal(same.shape)).astype(np.float32)
    assert retrieve({"A": same, "B": noisy}).top1 == 1.0


def test_embeddings_without_a_direction_are_refused() -> None:
    with pytest.raises(UsageError, match="an embedding of B is not finite, or zero"):
        retrieve({"A": np.ones((3, 4)), "B": np.zeros((3, 4))})
    with pytest.raises(UsageError, match="give two or more alike"):
        retrieve({"A": np.ones((0, 4)), "B": np.ones((0, 4))})


def test_scanners_with_other_places_are_refused() -> None:
    with pytest.raises(UsageError, match="give two or more alike"):
        retrieve({"A": np.ones((3, 4))})
    with pytest.raises(UsageError, match="give two or more alike"):
        retrieve({"A": np.ones((3, 4)), "B": np.ones((4, 4))})
