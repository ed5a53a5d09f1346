"""Losses and centering against the papers' formulas in NumPy, float64; tolerances are float32's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgepath.distillation.losses import MeanCenter, dino_loss, ibot_loss, sinkhorn

RNG = np.random.default_rng(0)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))


@pytest.mark.parametrize("same_view", [False, True])
def test_dino_is_the_mean_cross_entropy_over_pairs_of_views(same_view: bool) -> None:
    targets, logits = softmax(RNG.normal(size=(2, 5, 7)) / 0.04), RNG.uniform(-1, 1, (6, 5, 7))
    terms = [
        -(targets[t] * np.log(softmax(logits[s] / 0.1))).sum(-1).mean()
        for t in range(2)
        for s in range(6)
        if same_view or s != t
    ]
    found = dino_loss(tensor(targets), tensor(logits), 0.1, same_view=same_view)
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-5)


def test_ibot_is_the_mean_cross_entropy_over_all_tokens() -> None:
    targets, logits = softmax(RNG.normal(size=(40, 7)) / 0.04), RNG.uniform(-1, 1, (40, 7))
    wanted = -(targets * np.log(softmax(logits / 0.1))).sum(-1).mean()
    assert float(ibot_loss(tensor(targets), tensor(logits), 0.1)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_is_dinov2s(iterations: int) -> None:
    logits = RNG.uniform(-1, 1, (12, 5))
    shares = np.exp(logits / 0.07).T  # K x B, as DINOv2 writes it
    prototypes, rows = shares.shape
    shares /= shares.sum()
    for _ in range(iterations):
        shares /= shares.sum(1, keepdims=True)
        shares /= prototypes
        shares /= shares.sum(0, keepdims=True)
        shares /= rows
    assert np.allclose(sinkhorn(tensor(logits), 0.07, iterations).numpy(), (shares * rows).T, rtol=1e-4, atol=1e-6)


def test_sinkhorn_shares_prototypes_evenly_and_rows_sum_to_one() -> None:
    targets = sinkhorn(tensor(RNG.uniform(-0.3, 0.3, (400, 8)) + np.linspace(-0.5, 0.5, 8)), 0.07, 50)
    assert np.allclose(targets.sum(1), 1, atol=1e-5)
    assert np.allclose(targets.sum(0), 50, rtol=1e-2)


def test_sinkhorn_survives_the_coldest_temperature() -> None:
    targets = sinkhorn(tensor(RNG.uniform(-1, 1, (16, 32))), 0.005, 3)
    assert torch.isfinite(targets).all()


def test_mean_center_uses_the_center_so_far_and_then_moves_it() -> None:
    center, logits = MeanCenter(6, 0.9), [RNG.normal(size=(10, 6)) for _ in range(3)]
    wanted = np.zeros(6)
    for batch in logits:
        found = center(tensor(batch), 0.05)
        assert np.allclose(found.numpy(), softmax((batch - wanted) / 0.05), atol=1e-5)
        wanted = 0.9 * wanted + 0.1 * batch.mean(0)
        assert np.allclose(center.center.numpy(), wanted, atol=1e-6)
