"""Drift figures against scikit-learn and NumPy's own formulas."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity, paired_cosine_distances
from sklearn.neighbors import NearestNeighbors

from edgepath.checks.drift import NEIGHBOURS, measure
from edgepath.errors import EdgepathError


def embeddings(count: int, dim: int = 24, seed: int = 0, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    reference = rng.standard_normal((count, dim)).astype(np.float32)
    return reference, reference + noise * rng.standard_normal((count, dim)).astype(np.float32)


@pytest.mark.parametrize("count", [3, 11, 12, 200])
def test_figures_are_scikit_learns(count: int) -> None:
    reference, candidate = embeddings(count)
    drift = measure(reference, candidate)
    cosines = 1 - paired_cosine_distances(reference.astype(np.float64), candidate.astype(np.float64))
    # float64 throughout: sums of 24 products agree to a few units in the last place
    assert drift.tiles == count
    assert drift.cosine_mean == pytest.approx(cosines.mean(), abs=1e-12)
    assert drift.cosine_min == pytest.approx(cosines.min(), abs=1e-12)
    assert drift.cosine_p01 == pytest.approx(np.percentile(cosines, 1), abs=1e-12)
    relative = [math.dist(c, r) / math.hypot(*r) for c, r in zip(candidate.tolist(), reference.tolist(), strict=True)]
    assert drift.relative_l2 == pytest.approx(sum(relative) / count, rel=1e-6)


@pytest.mark.parametrize("count", [3, 11, 12, 200])
def test_overlap_is_that_of_scikit_learns_neighbours(count: int) -> None:
    reference, candidate = embeddings(count)
    drift = measure(reference, candidate)
    k = min(10, count - 1)
    one, other = (
        [set(np.argsort(-row, kind="stable")[:k].tolist()) for row in similarity]
        for similarity in (cosine_similarity(v.astype(np.float64)) - 9 * np.eye(count) for v in (reference, candidate))
    )
    assert drift.neighbours == k
    assert drift.neighbour_overlap == pytest.approx(
        sum(len(a & b) for a, b in zip(one, other, strict=True)) / count / k
    )
    assert drift.neighbour_overlap < 1 or k == count - 1


@pytest.mark.parametrize("count", [511, 512, 513, 1100])
def test_blocks_join_without_a_seam(count: int) -> None:
    reference, candidate = embeddings(count, dim=6, noise=0.1)
    one, other = (
        NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine").fit(v.astype(np.float64)).kneighbors()[1]
        for v in (reference, candidate)
    )
    shared = sum(len(np.intersect1d(a, b)) for a, b in zip(one, other, strict=True))
    assert measure(reference, candidate).neighbour_overlap == pytest.approx(shared / count / NEIGHBOURS, abs=1e-12)


def test_no_drift_is_one_and_zero() -> None:
    reference, _ = embeddings(30)
    drift = measure(reference, reference.copy())
    assert drift.cosine_min == pytest.approx(1, abs=1e-15)
    assert drift.cosine_mean <= 1
    assert (drift.relative_l2, drift.neighbour_overlap, drift.neighbours) == (0.0, 1.0, NEIGHBOURS)


def test_scale_changes_the_length_and_not_the_direction() -> None:
    reference, _ = embeddings(30)
    drift = measure(reference, reference * np.float32(1.5))
    assert drift.cosine_min == pytest.approx(1, abs=1e-12)
    assert drift.relative_l2 == pytest.approx(0.5, rel=1e-6)  # float32 products
    assert drift.neighbour_overlap == 1


def test_opposite_directions_are_minus_one() -> None:
    reference, _ = embeddings(5)
    drift = measure(reference, -reference)
    assert drift.cosine_mean == pytest.approx(-1, abs=1e-12)
    assert drift.relative_l2 == pytest.approx(2, rel=1e-6)


def test_tied_neighbours_of_the_reference_all_count() -> None:
    # 30 blank tiles are one embedding: which ten of the others are "nearest" is chance, and no drift.
    reference, _ = embeddings(40)
    reference[10:] = reference[10]
    candidate = reference.copy()
    candidate[10:] *= np.linspace(1, 1.001, 30, dtype=np.float32)[:, None]  # rounds each of them differently
    assert measure(reference, candidate).neighbour_overlap == 1


def test_candidate_that_collapsed_has_lost_its_neighbours() -> None:
    reference, _ = embeddings(400)
    candidate = np.ones_like(reference)
    assert measure(reference, candidate).neighbour_overlap < 0.1


def test_one_tile_has_no_neighbours() -> None:
    reference, candidate = embeddings(1)
    drift = measure(reference, candidate, ["a"])
    assert (drift.tiles, drift.neighbours, drift.neighbour_overlap, drift.worst) == (1, 0, 1.0, ("a",))
    assert drift.cosine_mean == drift.cosine_min == drift.cosine_p01 < 1


def test_two_tiles_have_each_other() -> None:
    reference, candidate = embeddings(2)
    drift = measure(reference, candidate)
    assert (drift.neighbours, drift.neighbour_overlap, drift.worst) == (1, 1.0, ())


def test_worst_tiles_come_first_and_ties_in_order() -> None:
    reference = np.tile(np.array([[1, 0]], np.float32), (8, 1))
    angles = np.radians([0, 40, 10, 50, 10, 20, 0, 30])
    candidate = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    drift = measure(reference, candidate, list("abcdefgh"))
    assert drift.worst == ("d", "b", "h", "f", "c")
    assert drift.cosine_min == pytest.approx(math.cos(math.radians(50)), abs=1e-7)


def test_json_holds_every_figure() -> None:
    reference, candidate = embeddings(12)
    drift = measure(reference, candidate, [f"tile {i}" for i in range(12)])
    values = json.loads(json.dumps(drift.to_json(), allow_nan=False))
    assert values == {**vars(drift), "worst": list(drift.worst)}
    assert all(type(values[key]) is float for key in values if key not in ("tiles", "neighbours", "worst"))


def test_large_values_do_not_overflow() -> None:
    reference, candidate = (values * np.float32(1e30) for values in embeddings(12))
    assert measure(reference, candidate).cosine_mean == pytest.approx(measure(*embeddings(12)).cosine_mean, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_value_that_is_not_finite_names_its_tile(value: float, side: int) -> None:
    sets = embeddings(5)
    sets[side][3, 7] = value
    name = ("reference", "candidate")[side]
    with pytest.raises(EdgepathError, match=f"the {name} embedding of c/3.png is not finite or zero \\(1 such"):
        measure(*sets, keys=[f"c/{i}.png" for i in range(5)])
    with pytest.raises(EdgepathError, match=f"the {name} embedding of tile 3 is"):
        measure(*sets)


@pytest.mark.parametrize("side", [0, 1])
def test_zero_embedding_has_no_direction(side: int) -> None:
    sets = embeddings(5)
    sets[side][[1, 4]] = 0
    with pytest.raises(EdgepathError, match=r"embedding of tile 1 is not finite or zero \(2 such tiles\)"):
        measure(*sets)


@pytest.mark.parametrize(
    ("one", "other"), [((4, 3), (4, 2)), ((4, 3), (5, 3)), ((0, 3), (0, 3)), ((4,), (4,)), ((2, 2, 2), (2, 2, 2))]
)
def test_shapes_that_do_not_compare(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    with pytest.raises(EdgepathError) as caught:
        measure(np.ones(one, np.float32), np.ones(other, np.float32))
    assert f"{one} and {other} cannot be compared" in str(caught.value)


@pytest.mark.parametrize("count", [3, 7])
def test_keys_are_as_many_as_tiles(count: int) -> None:
    reference, candidate = embeddings(5)
    with pytest.raises(EdgepathError, match=f"5 embeddings for {count} tiles"):
        measure(reference, candidate, ["x"] * count)
