"""Augmentations do what they say, exactly where they can, and make no colour that tissue never has."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
import pytest

from edgepath.distillation import views
from edgepath.distillation.options import load_options
from edgepath.tiles.stains import stain_vectors

OPTIONS = load_options("recipe").views


@pytest.fixture
def tile(tiles: np.ndarray) -> np.ndarray:
    return np.asarray(tiles[0])


def test_views_have_the_sizes_asked_for(tile: np.ndarray) -> None:
    large, small = views.make_views(tile, 224, OPTIONS, np.random.default_rng(0))
    assert large.shape == (2, 224, 224, 3)
    assert small.shape == (8, 98, 98, 3)
    assert large.dtype == small.dtype == np.uint8


def test_views_are_the_same_for_a_seed_and_differ_between_seeds(tile: np.ndarray) -> None:
    first, again, other = (views.make_views(tile, 224, OPTIONS, np.random.default_rng(s)) for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0][0], first[0][1])


def test_turns_are_the_eight_of_the_square_and_move_pixels_only() -> None:
    tile = np.arange(5 * 5 * 3, dtype=np.uint8).reshape(5, 5, 3)
    wanted = {np.rot90(side, k).tobytes() for side in (tile, tile[:, ::-1]) for k in range(4)}
    assert {views.turn(tile, np.random.default_rng(seed)).tobytes() for seed in range(200)} == wanted


def test_a_crop_of_everything_is_the_tile(tile: np.ndarray) -> None:
    assert np.array_equal(views.crop(tile, 224, (1.0, 1.0), np.random.default_rng(0)), tile)


def test_a_crop_shows_the_share_it_was_asked_for() -> None:
    across = np.repeat(np.linspace(0, 250, 224).astype(np.uint8)[None, :, None], 224, 0).repeat(3, 2)
    for seed in range(20):
        cut = views.crop(across, 112, (0.25, 0.25), np.random.default_rng(seed)).astype(int)
        assert cut[:, -1].mean() - cut[:, 0].mean() == pytest.approx(125, abs=3)  # half of the side, of a ramp of 250


@pytest.mark.parametrize("seed", range(20))
def test_restained_mixtures_stay_between_published_stains(seed: int) -> None:
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0, 2, (500, 2)).astype(np.float32)
    density = amounts @ stain_vectors(0.5, 0.5)[:2].astype(np.float32)
    restained = views.restain(density, 0.25, 1.0, rng)
    haematoxylin = [stain_vectors(hue, 0)[0] for hue in (0.0, 1.0)]
    eosin = [stain_vectors(0, hue)[1] for hue in (0.0, 1.0)]
    # Inside the cone of the four published vectors: non-negative least squares leaves nothing over.
    from scipy.optimize import nnls

    for pixel in restained[:50]:
        assert nnls(np.stack([*haematoxylin, *eosin], 1), pixel)[1] < 1e-5


def test_restaining_keeps_glass_and_the_bounds_of_strength() -> None:
    rng = np.random.default_rng(0)
    assert np.abs(views.restain(np.zeros((4, 3), np.float32), 0.5, 1.0, rng)).max() == 0
    eosin = stain_vectors(0.5, 0.5)[1].astype(np.float32)
    lengths = [float(np.linalg.norm(views.restain(eosin[None], 0.25, 0.0, rng))) for _ in range(200)]
    assert 0.75 <= min(lengths) < 0.8
    assert 1.2 < max(lengths) <= 1.25


def test_rescanning_keeps_black_and_order_and_tints_grey_only_by_the_white_point() -> None:
    grey = np.linspace(0, 1, 64, dtype=np.float32)[:, None].repeat(3, 1)
    for seed in range(50):
        seen = views.rescan(grey, 1.0, np.random.default_rng(seed))
        assert np.abs(seen[0]).max() == 0
        assert (np.diff(seen, axis=0) >= 0).all()
        assert np.ptp(seen / seen[-1], axis=1)[1:].max() < 1e-5


def test_no_view_has_a_hue_that_tissue_never_has(tiles: np.ndarray) -> None:
    bare = dataclasses.replace(OPTIONS, blur_probability=0.0)
    for seed in range(40):
        view = views.recolour(tiles[seed % len(tiles)], bare, np.random.default_rng(seed))
        red, green, blue = view.reshape(-1, 3)[::37].T.astype(int)
        # Coloured pixels run from blue over purple and pink to the orange of red cells: green never leads.
        assert ((green > red + 12) & (green > blue + 12)).mean() < 1e-3
        chroma = np.ptp(np.stack([red, green, blue]), axis=0)
        vivid = np.stack([red, green, blue], 1)[chroma > 40]
        hues = np.array([colorsys.rgb_to_hsv(*(pixel / 255))[0] for pixel in vivid[:200]]) * 360
        assert ((hues > 60) & (hues < 190)).sum() == 0


def test_no_change_at_all_is_the_tile(tile: np.ndarray) -> None:
    still = dataclasses.replace(OPTIONS, stain_strength=0.0, stain_hue=0.0, scanner=0.0, blur_probability=0.0)
    changed = views.recolour(tile, still, np.random.default_rng(0))
    assert np.abs(changed.astype(int) - tile).max() <= 1  # through the logarithm and back


def test_blur_takes_detail_and_keeps_the_mean(tile: np.ndarray) -> None:
    always = dataclasses.replace(OPTIONS, blur_probability=1.0, blur_pixels=(1.0, 1.0))
    blurred = views.blur(tile, always, np.random.default_rng(0))
    detail = [np.abs(np.diff(image.astype(int), axis=1)).mean() for image in (blurred, tile)]
    assert detail[0] < 0.7 * detail[1]
    assert abs(blurred.mean() - tile.mean()) < 1
    never = dataclasses.replace(OPTIONS, blur_probability=0.0)
    assert views.blur(tile, never, np.random.default_rng(0)) is tile
