"""Between which bounds a figure lies, as far as a sample can tell: each is right with 95 % confidence.

Means are bounded by a bootstrap over what was sampled (places, tiles, patients) in its Bayesian form (Rubin 1981:
random weights instead of copies), with one more drawn into each resample that nobody saw: for the upper bound the worst
that there could be, for the lower the best. So a sample without a loss is no proof of none. Where each is a yes or a
no, these are the exact bounds of Clopper and Pearson (1934; without any loss the rule of three, 3 / n); in between,
those of Learned-Miller and Thomas (2019, arXiv 1905.06208): they need no distribution, only the worst there could be.

Quantiles are bounded by order statistics, which need no distribution either. docs/verdicts.md says why, and how well it
works.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
"""How often a bound is wrong, at most; each bound by itself."""
UNSEEN = 5
"""How many times what may be lost on average one may lose that was not seen, where a figure is no yes or no."""
RESAMPLES = 4000
_AT_ONCE = 1 << 20  # weights held at once
_MOST_N = 10**7


@dataclass(frozen=True)
class Bounds:
    """A figure's estimate from `n` of `unit`, the bounds of what it estimates, and how far the sample alone moves it.

    `low` and `high` hold with the unseen one, `sampled` are the same without.
    """

    n: int
    unit: str
    estimate: float
    low: float
    high: float
    sampled: tuple[float, float]

    def n_to_decide(self, bound: float) -> int | None:
        """Return about how many would decide on which side of `bound` the figure lies, None where no number would.

        The sample's part of a distance shrinks with the root of n, that of the unseen one with n.
        """
        high = self.estimate < bound
        gap, distance = abs(bound - self.estimate), abs((self.high if high else self.low) - self.estimate)
        sampled = min(distance, abs(self.sampled[high] - self.estimate))
        unseen = distance - sampled
        if not gap > 0 or not math.isfinite(distance):
            return None
        # unseen x^2 + sampled x = gap, where x is the root of n now over n then
        root = math.sqrt(sampled**2 + 4 * unseen * gap) + sampled
        needed = self.n * (root / (2 * gap)) ** 2
        return math.ceil(needed) if needed < _MOST_N else None


def mean_bounds(
    values: np.ndarray, unit: str, least: np.ndarray, most: np.ndarray, *, alpha_low: float = ALPHA, seed: int = 0
) -> list[Bounds]:
    """Bound the means of columns of `values`, float64 (n, figures); rows are what was sampled.

    `least` and `most` (figures) are the smallest and largest that a value not seen could be; one that was seen and lies
    farther out counts in their place. `alpha_low` is how often the lower bounds may be wrong.
    """
    least, most = np.minimum(least, values.min(0)), np.maximum(most, values.max(0))
    sums, unseen = _resample(np.column_stack([values, np.ones(len(values))]), 1, seed)
    totals, weighted = sums[:, -1:], sums[:, :-1]
    plain, low, high = (
        (weighted + extra) / total
        for extra, total in (
            (0.0, totals),
            (unseen * least, totals + unseen),
            (unseen * most, totals + unseen),
        )
    )
    lows, highs = np.quantile(low, alpha_low, axis=0), np.quantile(high, 1 - ALPHA, axis=0)
    sampled = np.quantile(plain, [alpha_low, 1 - ALPHA], axis=0)
    means = [column.mean() for column in values.T]
    return [
        Bounds(len(values), unit, float(mean), float(low), float(high), (float(below), float(above)))
        for mean, low, high, below, above in zip(means, lows, highs, *sampled, strict=True)
    ]


def ratio_bounds(
    sums: np.ndarray,
    counts: np.ndarray,
    unit: str,
    extremes: tuple[float, float],
    combine: Callable[[np.ndarray], np.ndarray],
    *,
    seed: int = 0,
) -> Bounds:
    """Bound a figure that `combine` makes of the means of several parts, as balanced accuracy is of classes' recalls.

    `sums` and `counts` are float64 (n, parts): what each of n sampled adds to a part's mean, and how many it adds. One
    that was not seen stands in each part, of the size of the others, its mean the smaller or the larger of `extremes`.
    `combine` takes means (..., parts) and grows with each.
    """
    weighted, unseen = _resample(np.column_stack([sums, counts]), sums.shape[1], seed)
    of_sums, of_counts = np.split(weighted, 2, axis=1)
    unseen = unseen * counts.sum(0) / (counts > 0).sum(0)
    low, high = (combine((of_sums + unseen * extreme) / (of_counts + unseen)) for extreme in extremes)
    plain = combine(of_sums / of_counts)
    estimate = float(combine(sums.sum(0) / counts.sum(0)))
    ends = (float(np.quantile(plain, ALPHA)), float(np.quantile(plain, 1 - ALPHA)))
    return Bounds(len(sums), unit, estimate, float(np.quantile(low, ALPHA)), float(np.quantile(high, 1 - ALPHA)), ends)


def worst_of(figures: Sequence[Bounds]) -> Bounds:
    """Bound the largest of several figures, of which the largest was picked by looking at the same sample.

    No correction is needed to say that the largest is small: each has to be (Berger 1982). To say that it is large, the
    lower bounds have to hold all at once: `alpha_low` is to be `ALPHA` over how many there are (Bonferroni).
    """
    worst = max(figures, key=lambda figure: figure.estimate)
    low, high = (max(figure.sampled[side] for figure in figures) for side in (0, 1))
    return Bounds(
        worst.n,
        worst.unit,
        worst.estimate,
        max(figure.low for figure in figures),
        max(figure.high for figure in figures),
        (low, high),
    )


@dataclass(frozen=True)
class QuantileBounds:
    """The same of a quantile, by the order statistics of `ordered` values; infinite where n is too small for one.

    Each bound is wrong in `alpha` of samples, at most.
    """

    unit: str
    share: float
    ordered: np.ndarray
    alpha: float = ALPHA

    @property
    def n(self) -> int:
        return len(self.ordered)

    @property
    def estimate(self) -> float:
        return float(np.quantile(self.ordered, self.share))

    @property
    def low(self) -> float:
        return self._ends(self.n)[0]

    @property
    def high(self) -> float:
        return self._ends(self.n)[1]

    def n_to_decide(self, bound: float) -> int | None:
        """Return about how many would decide, were all of them distributed as these are."""

        def decides(n: int) -> bool:
            low, high = self._ends(n)
            return low >= bound or high < bound

        enough = self.n
        while not decides(enough):
            enough *= 2
            if enough > _MOST_N:
                return None
        short = max(self.n, enough // 2)
        while enough - short > 1 + short // 1000:
            middle = (short + enough) // 2
            short, enough = (short, middle) if decides(middle) else (middle, enough)
        return enough

    def _ends(self, n: int) -> tuple[float, float]:
        """Return both bounds of `n` values that are distributed as these."""
        low, high = _ranks(n, self.share, self.alpha)

        def at(rank: int) -> float:
            return float(self.ordered[-(-rank * self.n // n) - 1])

        return at(low) if low else -math.inf, at(high) if high <= n else math.inf


def _ranks(n: int, share: float, alpha: float = ALPHA) -> tuple[int, int]:
    """Return which of n ordered values bound a quantile, counted from 1: 0 and n + 1 where none does.

    As many values as lie below the quantile, in the binomial's lowest and highest cases.
    """
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    at_most = np.cumsum(np.exp(logs[n] - logs - logs[::-1] + k * math.log(share) + (n - k) * math.log1p(-share)))
    # P(fewer than `low` lie below) <= alpha, P(fewer than `high` do) >= 1 - alpha
    return int(np.searchsorted(at_most, alpha, "right")), int(np.searchsorted(at_most, 1 - alpha, "left")) + 1


def _resample(columns: np.ndarray, unseen: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weighted sums of columns (resamples, columns), and the weights of those unseen (resamples, unseen).

    Weights are exponential: divided by their sum they are as likely to be any as any other. Those unseen are the
    exponential's quantiles in random order, for on their tail hangs the bound of a sample without a loss.
    """
    rng = np.random.default_rng(seed)
    quantiles = -np.log((np.arange(RESAMPLES) + 0.5) / RESAMPLES)
    extra = rng.permuted(np.tile(quantiles[:, None], unseen), axis=0)
    step, sums = max(1, _AT_ONCE // len(columns)), []
    for start in range(0, RESAMPLES, step):
        weights = rng.standard_exponential((min(step, RESAMPLES - start), len(columns)))
        sums.append(weights @ columns)
    return np.concatenate(sums), extra
