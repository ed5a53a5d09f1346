"""PLISM's figures are those of the definition written with the whole matrix, ties and duplicates included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edgepath.errors import UsageError
from edgepath.quality import plism as metrics
from edgepath.quality.pairs import pairs
from edgepath.quality.plism import FIGURES, TOP, compare, leaderboard, prepare, summarise


def naive(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Stack both, sort every row by cosine: of equal ones, the twin first, and no tile finds itself."""
    n = len(a)
    rows = np.concatenate([a, b]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    hits = dict.fromkeys(TOP, 0)
    for i in range(2 * n):
        twin = (i + n) % (2 * n)
        nearer = sum(cosines[i, j] > cosines[i, twin] + 1e-12 for j in range(2 * n) if j not in (i, twin))
        for k in TOP:
            hits[k] += nearer < k
    return {"cosine": float(np.diag(cosines[:n, n:]).mean())} | {f"top{k}": hits[k] / (2 * n) for k in TOP}


def closest_race(a: np.ndarray, b: np.ndarray) -> float:
    """Return by how little of a cosine a tile is nearer or farther than a twin, at the least."""
    n = len(a)
    rows = np.concatenate([a, b]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines, tiles = rows @ rows.T, np.arange(2 * n)
    twins = (tiles + n) % (2 * n)
    races = np.abs(cosines - cosines[tiles, twins][:, None])
    races[tiles, tiles] = races[tiles, twins] = np.inf
    return float(races.min())


def figures(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    return compare(prepare(a, "a"), prepare(b, "b"))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 10_000), st.floats(0.05, 3.0))
def test_figures_are_those_of_the_whole_matrix(places: int, dim: int, seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((places, dim + 1)).astype(np.float32)
    b = (a + noise * rng.standard_normal(a.shape)).astype(np.float32)
    assume(closest_race(a, b) > 1e-6)  # what is nearer by less is up to the rounding of a float32
    found, wanted = figures(a, b), naive(a, b)
    assert found["cosine"] == pytest.approx(wanted["cosine"], abs=1e-6)
    assert {k: found[k] for k in FIGURES[1:]} == {k: pytest.approx(wanted[k]) for k in FIGURES[1:]}


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 25), st.integers(0, 10_000))
def test_of_equal_tiles_the_twin_comes_first(places: int, seed: int) -> None:
    # Few directions with exact norms, so that many tiles are the same: a white one is like every other white one.
    rng = np.random.default_rng(seed)
    kinds = np.eye(4, dtype=np.float32)
    a, b = kinds[rng.integers(0, 4, places)], kinds[rng.integers(0, 4, places)]
    assert figures(a, b) == pytest.approx(naive(a, b))


@pytest.mark.parametrize(("places", "dim"), [(11, 768), (97, 33), (200, 768), (769, 768), (1601, 768)])
def test_equal_embeddings_have_equal_cosines_to_the_last_bit(places: int, dim: int) -> None:
    # Every third tile is glass: of so many equal ones the twin comes first, wherever they lie in the product's blocks.
    rng = np.random.default_rng(places)
    a = rng.standard_normal((places, dim)).astype(np.float32)
    a[::3] = a[0]
    assert figures(a, a.copy())["top1"] == 1.0
    b = (a + 0.1 * rng.standard_normal(a.shape)).astype(np.float32)
    b[::3] = b[0]
    found = figures(a, b)
    # To a glass tile, others of its own slide are nearer than its twin; all other tiles find theirs.
    assert found["top1"] == pytest.approx(1 - len(a[::3]) / places)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    a = rng.standard_normal((300, 24)).astype(np.float32)
    b = a + rng.standard_normal(a.shape).astype(np.float32)
    whole = figures(a, b)
    monkeypatch.setattr(metrics, "BLOCK", 37)
    assert figures(a, b) == pytest.approx(whole)
    assert whole == pytest.approx(naive(a, b))
    assert 0 < whole["top1"] < whole["top10"] < 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_embeddings_that_mean_nothing_are_refused(bad: float) -> None:
    values = np.ones((4, 3), np.float32)
    values[2] = bad
    with pytest.raises(UsageError, match="an embedding of slide GMH_P is not finite, or zero"):
        prepare(values, "GMH_P")


def test_slides_of_other_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="do not match"):
        compare(prepare(np.ones((4, 3), np.float32), "a"), prepare(np.ones((5, 3), np.float32), "b"))


def test_groups_of_plism_have_the_published_sizes() -> None:
    from edgepath.tiles.synthetic import SCANNERS, STAININGS

    looks = [(staining, scanner) for staining in STAININGS for scanner in SCANNERS]
    counts = {group: sum(row[2] == group for row in pairs(looks)) for group in ("scanner", "staining", "both")}
    assert counts == {"scanner": 273, "staining": 546, "both": 3276}
    assert pairs([("GMH", "P"), ("GMH", "P")]) == [(0, 1, "neither")]


def test_summary_and_leaderboard_are_the_published_formulas() -> None:
    rng = np.random.default_rng(3)
    rows = [
        {"group": group} | {figure: float(rng.uniform()) for figure in FIGURES}
        for group in ("scanner", "staining", "both")
        for _ in range(5)
    ]
    found = summarise(rows)
    assert found["all"]["pairs"] == 15
    tens = np.array([row["top10"] for row in rows if row["group"] == "both"])
    both = found["both"]["top10"]
    assert both["median"] == np.median(tens)
    assert both["iqr"] == pytest.approx(np.quantile(tens, 0.75) - np.quantile(tens, 0.25))
    assert both["std"] == pytest.approx(np.std(tens))
    parts = [found["all"]["cosine"]["median"], *(found[g]["top10"]["median"] for g in ("scanner", "staining", "both"))]
    assert leaderboard(found) == pytest.approx(np.mean(parts))
    assert leaderboard({"all": found["all"]}) is None
