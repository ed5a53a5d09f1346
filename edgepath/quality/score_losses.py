"""What the artifact's predictions lost of a score to full precision's, and how sure that is.

A score is a mean over classes of something that tiles have: balanced accuracy of which tiles are right, AUROC of what
share of the other tiles each stands above (its placement: DeLong et al. 1988). So a loss is bounded by resampling tiles
with both predictions, or the patients or slides that they are of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..checks.bounds import UNSEEN, Bounds, ratio_bounds


@dataclass(frozen=True)
class Predicted:
    """Labels predicted for tiles (N), and the share of every class in sorted order (N, classes)."""

    labels: np.ndarray
    shares: np.ndarray


def accuracy_lost(truth: np.ndarray, full: Predicted, artifact: Predicted, units: np.ndarray, unit: str) -> Bounds:
    """Bound the loss of balanced accuracy; `units` (N) number what was sampled, `unit` names it.

    In each class, one that was not seen may be right in full precision only, with all its tiles.
    """
    lost = (full.labels == truth).astype(float) - (artifact.labels == truth)
    of_class = _indicators(truth)
    sums, counts = _by_unit(lost[:, None] * of_class, units), _by_unit(of_class, units)
    return ratio_bounds(sums, counts, unit, (-1.0, 1.0), lambda means: means.mean(-1))


def auroc_lost(
    truth: np.ndarray, full: Predicted, artifact: Predicted, units: np.ndarray, unit: str, allowed: float
) -> Bounds:
    """Bound the loss of AUROC; a placement that was not seen may lose `UNSEEN` times what may be lost on average."""
    of_class = _indicators(truth)
    lost = placements(truth, full.shares) - placements(truth, artifact.shares)
    area = float((lost * of_class).sum(0) @ (1 / of_class.sum(0)) / of_class.shape[1])
    parts = np.concatenate([of_class, 1 - of_class], axis=1)
    sums, counts = _by_unit(np.tile(lost, 2) * parts, units), _by_unit(parts, units)
    most = max(min(UNSEEN * allowed, 1.0), float(np.abs(lost).max()))
    # An area is the mean placement of a class's tiles, and as well that of the others: both vary (Hoeffding 1948).
    return ratio_bounds(sums, counts, unit, (-most, most), lambda means: 2 * means.mean(-1) - area)


def placements(truth: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return, for each tile and class, how far the tile's share of it says what is true, 0 to 1 (N, classes).

    For a tile of the class, of how many of the others its share is the larger; for another, of how many of the class's
    tiles its own is the smaller; ties counted half. Means over either are the area under the ROC curve.
    """
    places = np.empty(shares.shape)
    for column, name in enumerate(np.unique(truth)):
        inside, share = truth == name, shares[:, column]
        for side, sign in ((inside, 1.0), (~inside, -1.0)):
            others = np.sort(sign * share[~side])
            below = np.searchsorted(others, sign * share[side], "left")
            places[side, column] = (below + np.searchsorted(others, sign * share[side], "right")) / (2 * len(others))
    return places


def _indicators(truth: np.ndarray) -> np.ndarray:
    indicators: np.ndarray = (truth[:, None] == np.unique(truth)).astype(float)
    return indicators


def _by_unit(values: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return sums over the tiles of each unit."""
    sums = np.zeros((units.max() + 1, values.shape[1]))
    np.add.at(sums, units, values)
    return sums
