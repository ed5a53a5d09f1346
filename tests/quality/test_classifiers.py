"""Probes agree with scikit-learn, and refuse what would give a figure that means nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from edgepath.errors import UsageError
from edgepath.quality.classifiers import Method, balanced_accuracy, cross_validate, intervals

LABELS = ["tumour"] * 30 + ["stroma"] * 20 + ["fat"] * 10


def embeddings(apart: float) -> np.ndarray:
    """60 tiles of three classes, whose centres lie `apart`."""
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 16), (30, 20, 10), axis=0) * apart
    return (centres + rng.standard_normal((60, 16))).astype(np.float32)


def test_balanced_accuracy_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    truth, predicted = rng.choice(list("abc"), 50, p=(0.7, 0.2, 0.1)), rng.choice(list("abc"), 50)
    assert balanced_accuracy(truth, predicted) == pytest.approx(balanced_accuracy_score(truth, predicted))


def test_neighbours_vote_as_in_scikit_learn() -> None:
    values, truth = embeddings(2.0), np.array(LABELS)
    expected = np.empty_like(truth)
    for train, test in StratifiedKFold(5, shuffle=True, random_state=3).split(values, truth):
        expected[test] = KNeighborsClassifier(5, metric="cosine").fit(values[train], truth[train]).predict(values[test])
    score, predicted = cross_validate(values, LABELS, method="knn", seed=3)
    assert predicted.labels.tolist() == expected.tolist()
    assert predicted.shares.sum(1) == pytest.approx(np.ones(len(truth)))
    assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, expected))


@pytest.mark.parametrize("method", ["knn", "linear"])
def test_score_tells_classes_that_lie_apart_from_noise(method: Method) -> None:
    apart, _ = cross_validate(embeddings(8.0), LABELS, method=method)
    mixed, _ = cross_validate(embeddings(0.0), LABELS, method=method)
    assert apart.balanced_accuracy > 0.95
    assert 0.2 < mixed.balanced_accuracy < 0.5  # three classes
    assert mixed.high - mixed.low > 0.1
    assert apart.tiles == 60


def test_tiles_of_a_group_stay_together() -> None:
    # A slide's tiles are near each other and say nothing of the label: only a split within slides finds it.
    rng = np.random.default_rng(2)
    slides = np.repeat(np.arange(20), 6)
    labels = [("a", "b")[slide % 2] for slide in slides]
    values = rng.standard_normal((20, 8))[slides] * 5 + rng.standard_normal((120, 8))
    within, _ = cross_validate(values, labels, method="knn")
    across, _ = cross_validate(values, labels, method="knn", groups=[str(slide) for slide in slides])
    assert within.balanced_accuracy > 0.9
    assert across.balanced_accuracy < 0.75
    assert across.high - across.low > within.high - within.low


@pytest.mark.parametrize(
    ("values", "labels", "method", "said"),
    [
        (embeddings(1.0), ["a"] * 60, "knn", "all 60 tiles are a; two classes or more are needed"),
        (embeddings(1.0), ["a"] * 57 + ["b"] * 3, "knn", "3 tiles are b; 5 folds need as many of every class"),
        (embeddings(1.0), LABELS[1:], "knn", r"embeddings of shape \(60, 16\) for 59 labels"),
        (embeddings(1.0) * np.float32("nan"), LABELS, "linear", "an embedding is not finite"),
        (embeddings(1.0), LABELS, "svm", 'method "svm"; known: knn, linear'),
    ],
)
def test_what_gives_no_figure_is_refused(values: np.ndarray, labels: list[str], method: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cross_validate(values, labels, method=method)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("groups", "folds", "said"),
    [
        (["s1"] * 30 + ["s2"] * 30, 5, "2 groups, .* 5 folds need as many groups"),
        (["s1"] * 30 + [f"s{i}" for i in range(2, 32)], 5, "1 of them with tumour"),
        (["s1"] * 59, 5, "59 groups for 60 labels"),
        (None, 1, "1 folds; at least 2"),
    ],
)
def test_groups_and_folds_that_cannot_be_are_refused(groups: list[str] | None, folds: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cross_validate(embeddings(1.0), LABELS, method="linear", groups=groups, folds=folds)


def test_interval_keeps_every_class() -> None:
    # Two pure groups: a resample with only one of them would be that class's recall, not balanced accuracy.
    truth = np.array(["a"] * 50 + ["b"] * 5)
    predicted = np.array(["a"] * 50 + ["b"] * 2 + ["a"] * 3)
    groups = np.array([0] * 50 + [1] * 5)
    shares = np.stack([predicted == "a", predicted == "b"], axis=1).astype(float)
    low, high = intervals(truth, predicted, shares, groups, seed=0)
    assert low == pytest.approx([0.7, 0.7])
    assert high == pytest.approx([0.7, 0.7])


def test_intervals_are_those_of_scikit_learns_scores() -> None:
    rng = np.random.default_rng(4)
    truth = np.array(list("aaaaaaaabbbbbbccccc"))
    shares = rng.dirichlet(np.ones(3), len(truth)).round(1)  # ties among them
    predicted, units = np.array(list("abc"))[shares.argmax(1)], rng.permutation(len(truth)) // 2
    figures, draws = [], np.random.default_rng(5)
    while len(figures) < 2000:
        drawn = draws.integers(units.max() + 1, size=units.max() + 1)
        rows = np.concatenate([np.flatnonzero(units == unit) for unit in drawn])
        if len(set(truth[rows])) == 3:
            areas = [
                roc_auc_score(truth[rows] == name, column[rows]) for name, column in zip("abc", shares.T, strict=True)
            ]
            figures.append((balanced_accuracy_score(truth[rows], predicted[rows]), np.mean(areas)))
    expected = np.percentile(figures, (2.5, 97.5), axis=0)
    assert np.array(intervals(truth, predicted, shares, units, seed=5)) == pytest.approx(expected, abs=1e-12)


def test_folds_that_nothing_could_be_fitted_on_are_refused() -> None:
    from edgepath.quality.classifiers import split_folds

    with pytest.raises(UsageError, match="with 3 folds, one would have 2 tiles and leave 4 tiles to fit on"):
        split_folds(list("aaabbb"), folds=3)
    groups = np.repeat(list("vwxyz"), (2, 20, 20, 3, 1)).tolist()
    labels = np.repeat(list("abbab"), (2, 20, 20, 3, 1)).tolist()
    with pytest.raises(UsageError, match=r"with 5 folds, one would have \d+ tiles and leave"):
        split_folds(labels, groups, folds=5)
