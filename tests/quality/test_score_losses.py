"""Losses of scores are the differences of scores, and their bounds those of a bootstrap written another way."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from edgepath.quality.score_losses import Predicted, accuracy_lost, auroc_lost, placements

CLASSES = np.array(["a", "b", "c"])


def made(tiles: int, seed: int = 0, worse: float = 0.3) -> tuple[np.ndarray, Predicted, Predicted]:
    """Return labels, and two predictions of them, the second of noisier shares."""
    rng = np.random.default_rng(seed)
    truth = CLASSES[rng.integers(0, 3, tiles)]
    logits = 1.5 * (truth[:, None] == CLASSES) + rng.standard_normal((tiles, 3))
    noisier = logits + worse * rng.standard_normal(logits.shape)
    return truth, predicted(logits), predicted(noisier)


def predicted(logits: np.ndarray) -> Predicted:
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Predicted(CLASSES[shares.argmax(1)], shares)


def area(truth: np.ndarray, of: Predicted, weights: np.ndarray | None = None) -> float:
    areas = [roc_auc_score(truth == name, of.shares[:, i], sample_weight=weights) for i, name in enumerate(CLASSES)]
    return float(np.mean(areas))


def test_losses_are_differences_of_scikit_learns_scores() -> None:
    truth, full, artifact = made(90)
    tiles = np.arange(90)
    lost = accuracy_lost(truth, full, artifact, tiles, "tiles")
    scores = [balanced_accuracy_score(truth, of.labels) for of in (full, artifact)]
    assert lost.estimate == pytest.approx(scores[0] - scores[1])
    areas = auroc_lost(truth, full, artifact, tiles, "tiles", 0.01)
    assert areas.estimate == pytest.approx(area(truth, full) - area(truth, artifact))
    for of in (full, artifact):
        assert placements(truth, of.shares)[truth == "b", 1].mean() == pytest.approx(
            roc_auc_score(truth == "b", of.shares[:, 1])
        )


def test_bounds_by_sampling_are_a_bootstraps_of_whole_tiles() -> None:
    """Resample tiles with both predictions and score them anew, 1,000 times; the unseen tile is no part of that."""
    truth, full, artifact = made(240, worse=0.8)
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"accuracy": [], "area": []}
    for _ in range(1000):
        rows = rng.integers(0, 240, 240)
        parts = [Predicted(of.labels[rows], of.shares[rows]) for of in (full, artifact)]
        scores = [balanced_accuracy_score(truth[rows], of.labels) for of in parts]
        found["accuracy"].append(scores[0] - scores[1])
        found["area"].append(area(truth[rows], parts[0]) - area(truth[rows], parts[1]))
    tiles = np.arange(240)
    for lost, wanted in (
        (accuracy_lost(truth, full, artifact, tiles, "tiles"), found["accuracy"]),
        (auroc_lost(truth, full, artifact, tiles, "tiles", 0.01), found["area"]),
    ):
        low, high = np.quantile(wanted, (0.05, 0.95))
        width = high - low
        assert lost.sampled == (pytest.approx(low, abs=0.12 * width), pytest.approx(high, abs=0.12 * width))
        assert lost.low <= lost.sampled[0]
        assert lost.high >= lost.sampled[1]


def test_equal_predictions_lose_nothing_and_few_tiles_prove_little() -> None:
    for tiles, enough in ((24, False), (3000, True)):
        truth, full, _ = made(tiles)
        for lost in (
            accuracy_lost(truth, full, full, np.arange(tiles), "tiles"),
            auroc_lost(truth, full, full, np.arange(tiles), "tiles", 0.01),
        ):
            assert lost.estimate == 0
            assert lost.low < 0 < lost.high
            assert (lost.high < 0.01) is enough


def test_patients_are_sampled_with_all_their_tiles() -> None:
    truth, full, artifact = made(60, worse=1.0)
    alone = accuracy_lost(truth, full, artifact, np.arange(60), "tiles")
    # Each tile six times, all of one patient: as many tiles say no more than patients do.
    copies = [np.repeat(of, 6, axis=0) for of in (truth, full.labels, full.shares, artifact.labels, artifact.shares)]
    many = (copies[0], Predicted(*copies[1:3]), Predicted(*copies[3:]))
    grouped = accuracy_lost(*many, np.repeat(np.arange(60), 6), "groups")
    assert (grouped.n, grouped.unit, alone.n) == (60, "groups", 60)
    assert (grouped.low, grouped.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
    apart = accuracy_lost(*many, np.arange(360), "tiles")
    assert apart.high - apart.low < 0.7 * (grouped.high - grouped.low)
