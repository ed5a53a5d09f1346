"""What a frozen embedding is good for: labels from neighbours and from a linear layer.

Estimators and folds are scikit-learn's, which is imported inside, so that nothing else needs it. The intervals of a
probe ask for 16,000 scores: those are taken of many resamples at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ..errors import UsageError
from .score_losses import Predicted

Method = Literal["knn", "linear"]
NEIGHBOURS = 5
_RESAMPLES = 2000
_AT_ONCE = 50  # 4 MB of counts for 10,000 tiles


@dataclass(frozen=True)
class Score:
    """Balanced accuracy (mean recall over classes) and AUROC over `tiles` tiles, each with its 95 % interval.

    AUROC of more than two classes is the mean over classes, each against the rest.
    """

    balanced_accuracy: float
    low: float
    high: float
    auroc: float
    auroc_low: float
    auroc_high: float
    tiles: int


def cross_validate(
    embeddings: np.ndarray,
    labels: Sequence[str],
    *,
    method: Method,
    groups: Sequence[str] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> tuple[Score, Predicted]:
    """Predict every tile's label by a model fitted on the other folds; return the score and what was predicted.

    `embeddings` is float32 (N, D). `knn` votes among the 5 nearest by cosine; `linear` is logistic regression on
    standardized features (L2, C = 1). Folds are stratified by label and shuffled by `seed`; tiles of one of `groups` (a
    slide, a patient) stay in one fold. The interval is a bootstrap over tiles, or over groups where there are some.

    Raises UsageError for a single class, fewer tiles of a class than folds, or embeddings that are not finite.
    """
    names = np.unique(np.asarray(labels))
    _check(embeddings, labels, method)
    truth = np.asarray(labels)
    predicted, shares = np.empty_like(truth), np.zeros((len(truth), len(names)))
    for train, test in split_folds(labels, groups, folds=folds, seed=seed):
        fitted = _estimator(method).fit(embeddings[train], truth[train])
        predicted[test] = fitted.predict(embeddings[test])
        shares[np.ix_(test, np.searchsorted(names, fitted.classes_))] = fitted.predict_proba(embeddings[test])

    accuracy, area = balanced_accuracy(truth, predicted), auroc(truth, shares)
    low, high = (ends.tolist() for ends in intervals(truth, predicted, shares, numbered(len(truth), groups), seed))
    return Score(accuracy, low[0], high[0], area, low[1], high[1], len(truth)), Predicted(predicted, shares)


def numbered(tiles: int, groups: Sequence[str] | None) -> np.ndarray:
    """Return the number of each tile's group, its own where there are none: what a bootstrap resamples."""
    return np.arange(tiles) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]


def split_folds(
    labels: Sequence[str], groups: Sequence[str] | None = None, *, folds: int = 5, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to fit on and to predict of every fold; tiles of a group are in one fold.

    Raises UsageError where a fold would be empty, or would leave too little to fit on.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    truth = np.asarray(labels)
    _check_labels(truth, folds)
    if groups is not None:
        _check_groups(labels, groups, folds)
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(np.zeros((len(truth), 1)), truth, groups))
    for train, test in splits:
        lost = set(truth.tolist()) - set(truth[train].tolist())
        if not len(test) or lost or len(train) < NEIGHBOURS:
            why = f"none of {min(lost)}" if lost else f"{len(train)} tiles"
            raise UsageError(
                f"probe: with {folds} folds, one would have {len(test)} tiles and leave {why} to fit on; at least "
                f"{NEIGHBOURS} of all classes are needed: give fewer --folds, or more tiles or groups"
            )
    return splits


def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over classes of the share of their tiles that were predicted right; classes as in `truth`."""
    return float(np.mean([(predicted[truth == name] == name).mean() for name in np.unique(truth)]))


def auroc(truth: np.ndarray, shares: np.ndarray) -> float:
    """Return the area under the ROC curve of `shares` (N, classes in sorted order), the mean over classes.

    Each class against the rest: the chance that one of its tiles has a larger share of it than another tile has, ties
    counted half (Mann & Whitney 1947).
    """
    areas = []
    for column, name in zip(shares.T, np.unique(truth), strict=True):
        ordered, of = np.sort(column[truth != name]), column[truth == name]
        below = np.searchsorted(ordered, of, "left") + np.searchsorted(ordered, of, "right")
        areas.append(below.mean() / (2 * len(ordered)))
    return float(np.mean(areas))


def _check(embeddings: np.ndarray, labels: Sequence[str], method: str) -> None:
    if method not in get_args(Method):
        raise UsageError(f'probe: method "{method}"; known: {", ".join(get_args(Method))}')
    if len(embeddings) != len(labels) or embeddings.ndim != 2:
        raise UsageError(f"probe: embeddings of shape {embeddings.shape} for {len(labels)} labels; give one a tile")
    if not np.isfinite(embeddings).all():
        raise UsageError("probe: an embedding is not finite; embed the tiles again")


def _check_labels(truth: np.ndarray, folds: int) -> None:
    names, numbers = np.unique(truth, return_counts=True)
    counts = dict(zip(names.tolist(), numbers.tolist(), strict=True))
    if folds < 2:
        raise UsageError(f"probe: {folds} folds; at least 2 are needed")
    if len(counts) < 2:
        only = next(iter(counts), "none")
        raise UsageError(f"probe: all {len(truth)} tiles are {only}; two classes or more are needed")
    if few := [name for name, count in counts.items() if count < folds]:
        raise UsageError(
            f"probe: {counts[few[0]]} tiles are {few[0]}; {folds} folds need as many of every class: give more tiles, "
            "or fewer --folds"
        )


def _check_groups(labels: Sequence[str], groups: Sequence[str], folds: int) -> None:
    if len(groups) != len(labels):
        raise UsageError(f"probe: {len(groups)} groups for {len(labels)} labels; give one a tile")
    of_class: dict[str, set[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        of_class.setdefault(label, set()).add(group)
    label, of_label = min(of_class.items(), key=lambda item: len(item[1]))
    if len(of_label) < 2 or len(set(groups)) < folds:
        raise UsageError(
            f"probe: {len(set(groups))} groups, {len(of_label)} of them with {label}; {folds} folds need as many "
            "groups, and every class in two"
        )


def _estimator(method: Method) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if method == "knn":
        return KNeighborsClassifier(NEIGHBOURS, metric="cosine")
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def intervals(
    truth: np.ndarray, predicted: np.ndarray, shares: np.ndarray, units: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the 2.5th and 97.5th percentiles of balanced accuracy and AUROC, each (2,), over resampled `units` (N).

    Efron's bootstrap: a tile counts as often as its unit was drawn. A resample without one of the classes has no such
    figures, and is drawn again.
    """
    rng = np.random.default_rng(seed)
    drawn_from = int(units.max()) + 1
    of_class = (truth[:, None] == np.unique(truth)).astype(float)
    resampled: list[np.ndarray] = []
    for _ in range(50 * _RESAMPLES // _AT_ONCE):
        drawn = rng.integers(drawn_from, size=(_AT_ONCE, drawn_from))
        counts = np.stack([np.bincount(row, minlength=drawn_from) for row in drawn])[:, units].astype(float)
        counts = counts[(counts @ of_class > 0).all(axis=1)]
        resampled.extend(
            np.column_stack([_accuracies(counts, of_class, truth == predicted), _areas(counts, of_class, shares)])
        )
        if len(resampled) >= _RESAMPLES:
            low, high = np.percentile(resampled[:_RESAMPLES], (2.5, 97.5), axis=0)
            return low, high
    raise UsageError(
        f"probe: {drawn_from} groups are too few for an interval over {of_class.shape[1]} classes; give more groups"
    )


def _accuracies(counts: np.ndarray, of_class: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return balanced accuracy (R), tile n counted `counts[r, n]` times."""
    means: np.ndarray = ((counts @ (of_class * right[:, None])) / (counts @ of_class)).mean(axis=1)
    return means


def _areas(counts: np.ndarray, of_class: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return AUROC (R), tile n counted `counts[r, n]` times."""
    areas = np.zeros(len(counts))
    for column, inside in zip(shares.T, of_class.T, strict=True):
        order = np.argsort(column, kind="stable")
        starts = np.flatnonzero(np.diff(column[order], prepend=-np.inf))  # equal shares are one step of the curve
        of, others = (np.add.reduceat(counts[:, order] * part[order], starts, axis=1) for part in (inside, 1 - inside))
        below = np.cumsum(others, axis=1) - others / 2
        areas += (of * below).sum(axis=1) / (of.sum(axis=1) * others.sum(axis=1))
    mean: np.ndarray = areas / of_class.shape[1]
    return mean
