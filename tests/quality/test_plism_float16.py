"""Figures of `--float16` are those of the whole matrix in NumPy's float16, sorted and cut as plism-benchmark does."""

from __future__ import annotations

import numpy as np
import pytest

from edgepath.errors import UsageError
from edgepath.quality import plism_float16 as metrics
from edgepath.quality.plism import FIGURES, TOP, compare, prepare
from edgepath.quality.plism_float16 import compare_half, prepare_half


def by_the_benchmark(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Stack both in float16, divide products by norms, sort stably, drop the first, look for the twin in the k next."""
    n = len(a)
    rows = np.concatenate([a, b]).astype(np.float16)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = np.matmul(rows, rows.T) / (norms * norms.T)
    assert cosines.dtype == np.float16
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, 1:]
    twins = (np.arange(2 * n) + n) % (2 * n)
    hits = {f"top{k}": float((nearest[:, :k] == twins[:, None]).any(1).mean()) for k in TOP}
    return {"cosine": float(np.diag(cosines[:n, n:]).mean()), **hits}


def figures(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    return compare_half(prepare_half(a, "a"), prepare_half(b, "b"))


def crowded(places: int, dim: int, spread: float, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings that all point nearly one way, as those of tissue do, and the same a little moved."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(dim) + spread * rng.standard_normal((places, dim))
    return a.astype(np.float32), (a + noise * rng.standard_normal(a.shape)).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("places", "dim", "spread", "noise"),
    [(16, 32, 1.0, 0.5), (60, 64, 0.2, 0.1), (60, 64, 0.05, 0.01), (60, 64, 0.02, 0.005), (150, 96, 0.05, 0.02)],
)
def test_figures_are_the_benchmarks(places: int, dim: int, spread: float, noise: float, seed: int) -> None:
    a, b = crowded(places, dim, spread, noise, seed)
    found, wanted = figures(a, b), by_the_benchmark(a, b)
    one = 1.01 / (2 * places)  # a sum in another order may round to the next float16: one tile of all may find another
    assert found["cosine"] == pytest.approx(wanted["cosine"], abs=5e-4)
    assert {k: found[k] for k in FIGURES[1:]} == {k: pytest.approx(wanted[k], abs=one) for k in FIGURES[1:]}


def test_crowded_cosines_lose_twins_that_float32_finds() -> None:
    a, b = crowded(60, 64, 0.05, 0.01, 0)
    assert compare(prepare(a, "a"), prepare(b, "b"))["top1"] == 1.0
    assert figures(a, b)["top1"] < 0.6  # of tiles as near as itself, another is dropped in its place


def test_a_slide_held_against_itself_finds_half_of_the_twins() -> None:
    a = np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32)
    assert figures(a, a.copy()) == by_the_benchmark(a, a.copy())
    assert figures(a, a.copy())["top1"] == 0.5
    assert compare(prepare(a, "a"), prepare(a.copy(), "b"))["top1"] == 1.0


def test_equal_tiles_count_in_the_order_of_rows() -> None:
    # One-hot rows have exact cosines: every tie is one, whatever sums it.
    kinds = np.eye(4, dtype=np.float32)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a, b = kinds[rng.integers(0, 4, 30)], kinds[rng.integers(0, 4, 30)]
        assert figures(a, b) == by_the_benchmark(a, b)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = np.random.default_rng(1).integers(-2, 3, (40, 8)).astype(np.float32) + 0.5  # products are exact
    rng = np.random.default_rng(2)
    a, b = kinds[rng.integers(0, 40, 100)], kinds[rng.integers(0, 40, 100)]
    whole = figures(a, b)
    monkeypatch.setattr("edgepath.quality.plism.BLOCK", 17)
    monkeypatch.setattr(metrics, "BLOCK", 17)
    assert figures(a, b) == whole == by_the_benchmark(a, b)


@pytest.mark.parametrize("size", [300.0, 1e6, 1e-6, 0.0])
def test_norms_that_float16_cannot_hold_are_refused(size: float) -> None:
    values = np.full((4, 1), size, np.float32)
    with pytest.raises(UsageError, match=r"norms of slide GMH_P lie between .*: leave out --float16"):
        prepare_half(values, "GMH_P")
