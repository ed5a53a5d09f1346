"""Descriptors are what their formulas say, in NumPy and SciPy, and stay what they are when tissue is turned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from edgepath.distillation.descriptors import ORIENTATIONS, SCALES, patch_descriptors, tile_descriptors
from edgepath.distillation.views import stain_vectors
from edgepath.synthesis import synthesize

PATCH = 14


@pytest.fixture(scope="module")
def tile() -> np.ndarray:
    return synthesize(1, seed=3)[0]


def of(tile: np.ndarray) -> np.ndarray:
    return patch_descriptors(torch.from_numpy(tile[None].copy()), PATCH)[0].numpy()


def blocks(values: np.ndarray) -> np.ndarray:
    """Cut (224, 224) into (256, 196): a row a patch."""
    return values.reshape(16, PATCH, 16, PATCH).transpose(0, 2, 1, 3).reshape(256, -1)


def stains(tile: np.ndarray) -> np.ndarray:
    density = -np.log(np.maximum(tile, 0.5) / 255)
    return density @ np.linalg.inv(stain_vectors(0.5, 0.5))


def test_light_and_stains_are_means_and_deviations_over_the_patch(tile: np.ndarray) -> None:
    found = of(tile)
    assert found.shape == (256, 21)
    for channel in range(3):
        np.testing.assert_allclose(found[:, channel], blocks(tile[..., channel] / 255).mean(1), atol=1e-5)
        amount = blocks(stains(tile)[..., channel])
        np.testing.assert_allclose(found[:, 3 + channel], amount.mean(1), atol=1e-4)
        np.testing.assert_allclose(found[:, 6 + channel], amount.std(1), atol=1e-3)


def test_bands_are_differences_of_scipys_blurs(tile: np.ndarray) -> None:
    found = of(tile)
    for channel in range(2):
        amount = stains(tile)[..., channel]
        blurred = [
            ndimage.gaussian_filter(amount, sigma, radius=int(np.ceil(3 * sigma)), mode="mirror") for sigma in SCALES
        ]
        for band in range(3):
            expected = blocks(np.abs(blurred[band] - blurred[band + 1])).mean(1)
            np.testing.assert_allclose(found[:, 15 + 2 * band + channel], expected, atol=1e-4)


@pytest.mark.parametrize(("degrees", "votes"), [(0, 0), (90, 3)])
def test_stripes_vote_for_the_way_their_darkness_changes(degrees: int, votes: int) -> None:
    across = np.tile(np.array([60, 60, 200, 200], np.uint8), (224, 56))
    stripes = np.repeat((across if degrees == 0 else across.T)[..., None], 3, axis=2)
    orientations = of(stripes)[:, 9:15]
    assert ORIENTATIONS == 6
    assert (orientations.argmax(1) == votes).all()
    np.testing.assert_allclose(orientations.sum(1), 1, atol=0.02)


def test_a_turned_tile_is_described_alike_but_for_its_orientations(tile: np.ndarray) -> None:
    upright, turned = (
        tile_descriptors(torch.from_numpy(t[None].copy()), PATCH)[0].numpy() for t in (tile, np.rot90(tile))
    )
    assert upright.shape == (91,)
    kept = [i for i in range(91) if not (9 <= i < 15 or 30 <= i < 36)]
    np.testing.assert_allclose(upright[kept], turned[kept], atol=1e-3)
    assert np.abs(upright[9:15] - turned[9:15]).max() > 0.01


def test_shares_above_a_threshold_fall_with_it(tile: np.ndarray) -> None:
    found = tile_descriptors(torch.from_numpy(tile[None].copy()), PATCH)[0].numpy()
    haematoxylin, eosin = found[42:58:2], found[43:58:2]
    for shares in (haematoxylin, eosin):
        assert (np.diff(shares) <= 0).all()
        assert shares[0] > shares[-1]
    np.testing.assert_allclose(haematoxylin[0], (stains(tile)[..., 0] > 0.1).mean(), atol=1e-3)


def test_glass_has_no_number_that_is_not_finite() -> None:
    white = torch.full((2, 112, 112, 3), 255, dtype=torch.uint8)
    assert torch.isfinite(tile_descriptors(white, PATCH)).all()
    assert torch.isfinite(tile_descriptors(torch.zeros_like(white), PATCH)).all()


def test_every_number_of_a_tile_is_its_formulas(tile: np.ndarray) -> None:
    found = tile_descriptors(torch.from_numpy(tile[None].copy()), PATCH)[0].numpy()
    patches, amounts, light = of(tile), stains(tile), tile / 255
    thresholds, levels = [0.1 * 1.5**i for i in range(8)], [i / 8 for i in range(1, 8)]
    expected = [*patches.mean(0), *patches.std(0, ddof=1)]
    expected += [(amounts[..., channel] > t).mean() for t in thresholds for channel in range(2)]
    expected += [(light[..., channel] > level).mean() for level in levels for channel in range(3)]
    for one in thresholds[1::3]:
        expected += [((amounts[..., 0] > one) & (amounts[..., 1] > other)).mean() for other in thresholds[1::3]]
    grid = patches[:, 3].reshape(16, 16)
    grid = grid - grid.mean()
    for lag in (1, 2, 4):
        across, down = (grid[:, lag:] * grid[:, :-lag]).mean(), (grid[lag:] * grid[:-lag]).mean()
        expected.append((across + down) / 2 / ((grid**2).mean() + 1e-4))
    np.testing.assert_allclose(found, np.array(expected), atol=2e-3)
