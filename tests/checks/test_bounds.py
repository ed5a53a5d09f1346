"""Bounds are exact where there is something exact to hold them to, and hold as often as they say in simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest, expon

from edgepath.checks.bounds import ALPHA, UNSEEN, QuantileBounds, mean_bounds, ratio_bounds, worst_of

MARGIN = 0.01
EXPECTED = 2.5  # standard errors that a frequency of a simulation may lie off


def of_hits(lost: int, n: int) -> np.ndarray:
    values = np.zeros((n, 1))
    values[:lost] = 1
    return values


@pytest.mark.parametrize(("lost", "n"), [(0, 3), (0, 60), (1, 60), (3, 300), (0, 300), (30, 2713), (59, 60), (60, 60)])
def test_bounds_of_yes_and_no_are_clopper_and_pearsons(lost: int, n: int) -> None:
    (found,) = mean_bounds(of_hits(lost, n), "places", np.zeros(1), np.ones(1))
    exact = binomtest(lost, n).proportion_ci(1 - 2 * ALPHA, "exact")
    assert found.estimate == lost / n
    # Two percent of a distance is what 4,000 resamples leave.
    assert found.estimate - found.low == pytest.approx(found.estimate - exact.low, rel=0.05, abs=1e-9)
    assert found.high - found.estimate == pytest.approx(exact.high - found.estimate, rel=0.05, abs=1e-9)


def test_without_any_loss_the_rule_of_three_says_how_many_it_takes() -> None:
    for n in (3, 60, 250):
        (found,) = mean_bounds(of_hits(0, n), "places", -np.ones(1), np.ones(1))
        assert found.high > MARGIN  # never less than n allows
        assert found.low < 0  # nor is it known that nothing was gained
        assert found.n_to_decide(MARGIN) == pytest.approx(3 / MARGIN, rel=0.1 if n > 3 else 0.4)
    (enough,) = mean_bounds(of_hits(0, 320), "places", -np.ones(1), np.ones(1))
    assert enough.high < MARGIN


def test_a_sample_of_one_says_next_to_nothing() -> None:
    (found,) = mean_bounds(np.zeros((1, 1)), "tiles", -np.ones(1), np.ones(1))
    assert found.high == pytest.approx(0.95, abs=0.01)  # 1 - ALPHA ^ (1 / n)
    assert found.low == pytest.approx(-0.95, abs=0.01)


def test_what_was_seen_farther_out_counts_in_place_of_the_unseen() -> None:
    values = np.array([[0.0], [0.3], [0.0], [0.0]])
    narrow, wide = (mean_bounds(values, "tiles", np.zeros(1), np.array([most]))[0] for most in (0.05, 0.3))
    assert narrow == wide


def test_an_inconclusive_sample_says_about_how_many_would_decide() -> None:
    for lost, gained in ((0, 0), (1, 1), (1, 2), (3, 0)):
        values = np.zeros((100, 1))
        values[:lost], values[100 - gained :] = 1, -1

        (few,) = mean_bounds(values, "places", -np.ones(1), np.ones(1))
        needed = few.n_to_decide(MARGIN)
        assert needed is not None
        for times, decides in ((1.3, True), (0.7, False)):
            more = np.tile(values, (round(times * needed / 100), 1))  # as many, were all like these
            (found,) = mean_bounds(more, "places", -np.ones(1), np.ones(1))
            assert (not found.low <= MARGIN <= found.high) is decides


def test_no_number_decides_what_lies_on_the_bound() -> None:
    (found,) = mean_bounds(of_hits(1, 100), "places", np.zeros(1), np.ones(1))
    assert found.n_to_decide(0.01) is None


# --- how often they hold: each column is a sample of its own, so one call bounds them all


def wrong(estimates: list[bool]) -> float:
    return float(np.mean(estimates))


def at_most(share: float, of: int) -> float:
    return share + EXPECTED * math.sqrt(share * (1 - share) / of)


def hits(rng: np.random.Generator, n: int, samples: int, lost: float, moved: float) -> np.ndarray:
    """Return places' losses (n, samples): `moved` of them change, so that `lost` of them are lost on average."""
    change = rng.random((n, samples)) < moved
    return np.where(change, np.where(rng.random((n, samples)) < (1 + lost / moved) / 2, 1.0, -1.0), 0.0)


@pytest.mark.parametrize("moved", [0.02, 0.1])
@pytest.mark.parametrize("n", [60, 300, 2713])
def test_bounds_of_hits_are_wrong_in_five_percent_at_most(n: int, moved: float) -> None:
    samples = 600
    values = hits(np.random.default_rng((n, int(100 * moved))), n, samples, MARGIN, moved)
    found = mean_bounds(values, "places", -np.ones(samples), np.ones(samples))
    assert wrong([one.high <= MARGIN for one in found]) <= at_most(ALPHA, samples)  # non-inferior at the margin
    assert wrong([one.low > MARGIN for one in found]) <= at_most(ALPHA, samples)  # inferior at the margin


@pytest.mark.parametrize("n", [60, 300, 2713])
def test_no_loss_hardly_ever_fails_even_for_the_worst_scanner_of_seven(n: int) -> None:
    samples, scanners = 200, 7
    rng = np.random.default_rng(n)
    # Scanners share places: half of what moves, moves on all.
    shared = hits(rng, n, samples, 0.0, 0.05)[:, :, None]
    values = (shared + np.stack([hits(rng, n, samples, 0.0, 0.05) for _ in range(scanners)], 2)) / 2
    flat, ones = values.reshape(n, -1), np.ones(samples * scanners)
    found = mean_bounds(flat, "places", -ones, ones, alpha_low=ALPHA / scanners)
    worst = [worst_of(found[i : i + scanners]) for i in range(0, len(found), scanners)]
    assert wrong([one.low > MARGIN for one in worst]) <= ALPHA
    assert wrong([one.low > 0 for one in worst]) <= at_most(ALPHA, samples)  # though the largest of seven was picked


def test_twice_the_margin_fails_where_n_is_large() -> None:
    samples = 200
    power = {}
    for n in (60, 300, 2713):
        values = hits(np.random.default_rng(n), n, samples, 2 * MARGIN, 0.03)
        found = mean_bounds(values, "places", -np.ones(samples), np.ones(samples))
        power[n] = wrong([one.low > MARGIN for one in found])
    assert power[60] < power[300] < power[2713]
    assert power[2713] > 0.9


@pytest.mark.parametrize("n", [8, 32, 100])
@pytest.mark.parametrize("shape", ["normal", "exponential", "one of twenty ten times as far"])
def test_skewed_drift_at_its_bound_is_not_let_through(shape: str, n: int) -> None:
    """Student's interval lets 5 to 70 % of these through."""
    samples, rng = 400, np.random.default_rng(n)
    draw, mean = {
        "normal": (lambda: 1 + 0.3 * rng.standard_normal((n, samples)), 1.0),
        "exponential": (lambda: rng.exponential(1, (n, samples)), 1.0),
        "one of twenty ten times as far": (lambda: np.where(rng.random((n, samples)) < 0.05, 10.0, 1.0), 1.45),
    }[shape]
    found = mean_bounds(draw(), "tiles", np.zeros(samples), np.full(samples, UNSEEN * mean))
    assert wrong([one.high <= mean for one in found]) <= at_most(ALPHA, samples)


# --- figures made of several means


def test_balanced_means_are_bounded_by_part() -> None:
    rng = np.random.default_rng(0)
    parts = np.eye(2)[rng.integers(0, 2, 400)]
    lost = (rng.random(400) < 0.1).astype(float)[:, None] * parts
    found = ratio_bounds(lost, parts, "tiles", (-1.0, 1.0), lambda means: means.mean(-1))
    recalls = lost.sum(0) / parts.sum(0)
    assert found.estimate == pytest.approx(recalls.mean())
    error = math.sqrt(sum(p * (1 - p) / n for p, n in zip(recalls, parts.sum(0), strict=True))) / 2
    assert found.sampled[1] - found.estimate == pytest.approx(1.645 * error, rel=0.1)
    assert found.low < found.sampled[0] < found.sampled[1] < found.high


def test_a_group_counts_once_however_many_tiles_it_has() -> None:
    rng = np.random.default_rng(0)
    lost = rng.random(50)
    alone = ratio_bounds(lost[:, None], np.ones((50, 1)), "patients", (-1.0, 1.0), lambda means: means[..., 0])
    many = ratio_bounds(9 * lost[:, None], np.full((50, 1), 9.0), "patients", (-1.0, 1.0), lambda means: means[..., 0])
    assert (many.low, many.high, many.n) == (pytest.approx(alone.low), pytest.approx(alone.high), 50)


# --- quantiles


@pytest.mark.parametrize(("n", "share"), [(5, 0.5), (40, 0.5), (299, 0.01), (300, 0.01), (2000, 0.01), (30_000, 0.01)])
def test_ranks_are_the_binomials(n: int, share: float) -> None:
    found = QuantileBounds("tiles", share, np.arange(1.0, n + 1))  # values are their ranks
    assert binom.cdf(found.low - 1, n, share) <= ALPHA < binom.cdf(found.low, n, share)
    assert binom.cdf(found.high - 1, n, share) >= 1 - ALPHA > binom.cdf(found.high - 2, n, share)


def test_a_first_percentile_of_few_tiles_has_no_lower_bound() -> None:
    close = np.sort(1 - 1e-6 * np.random.default_rng(0).random(32))
    found = QuantileBounds("tiles", 0.01, close)
    assert found.low == -math.inf
    assert found.n_to_decide(0.99) == 299  # ln 0.05 / ln 0.99
    assert QuantileBounds("tiles", 0.01, np.linspace(0.999, 1, 299)).low == 0.999


def test_bounds_of_a_median_hold() -> None:
    rng, n = np.random.default_rng(0), 40
    samples = [np.sort(rng.exponential(1, n)) for _ in range(500)]
    found = [QuantileBounds("rounds", 0.5, one) for one in samples]
    median = float(expon.median())
    assert wrong([one.high < median for one in found]) <= at_most(ALPHA, 500)
    assert wrong([one.low > median for one in found]) <= at_most(ALPHA, 500)
    assert QuantileBounds("rounds", 0.5, samples[0][:4]).high == math.inf  # four rounds bound nothing
