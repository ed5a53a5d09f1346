"""One grid a slide: unique, inside, in reading order, at any size, scale and overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from edgepath.errors import UsageError
from edgepath.tiles.slides.grid import MOST_TILES, make_grid
from edgepath.tiles.slides.scale import Scale
from edgepath.tiles.slides.tissue import Tissue


def scale(size: int, width: float, height: float) -> Scale:
    return Scale(size, 0.5, (0.5, 0.5), "given", 0, 1.0, width, height)


def everywhere(width: int, height: int) -> Tissue:
    return Tissue(np.ones((1, 1), bool), (float(width), float(height)), everywhere=True)


def too_many(slide: tuple[int, int], sides: tuple[float, float], step: float) -> bool:
    """Return whether so many tiles may lie on the slide that a grid is refused, as the last test here wants it."""
    columns, rows = (max(length - side, 0) / (side * step) + 1 for length, side in zip(slide, sides, strict=True))
    return columns * rows > MOST_TILES


slides = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
sides = st.floats(7, 900)


@given(slides, sides, sides, st.integers(1, 300), st.floats(0, 0.95))
@example((100, 100), 7.0, 7.0, 100, 0.95)  # a step of less than a pixel
def test_coordinates_are_unique_inside_and_in_reading_order(
    slide: tuple[int, int], width: float, height: float, size: int, share: float
) -> None:
    overlap = min(int(share * size), size - 1)
    assume(not too_many(slide, (width, height), 1 - overlap / size))
    coords = make_grid(*slide, scale(size, width, height), everywhere(*slide), overlap=overlap)
    assert coords.dtype == np.int64
    assert coords.shape == (len(coords), 2)
    assert (coords >= 0).all()
    assert (coords + np.array([width, height]) <= np.array(slide) + 1e-6).all()
    assert (np.diff(coords[:, 1] * 3001 + coords[:, 0]) > 0).all()


@given(slides, sides, st.integers(1, 300), st.integers(0, 299))
def test_tiles_lie_a_step_apart_and_no_further_one_fits(
    slide: tuple[int, int], side: float, size: int, overlap: int
) -> None:
    overlap %= size
    step = side * (1 - overlap / size)
    if step < 1:
        return
    assume(not too_many(slide, (side, side), 1 - overlap / size))
    coords = make_grid(*slide, scale(size, side, side), everywhere(*slide), overlap=overlap)
    for axis, length in enumerate(slide):
        starts = np.unique(coords[:, axis])
        if not len(coords):
            assert min(slide) < side + 1
            return
        assert np.abs(starts - np.arange(len(starts)) * step).max() <= 0.5 + 1e-6  # whole pixels; errors never add up
        assert len(starts) * step + side > length - 0.5 - 1e-6


@given(st.integers(100, 2000), st.integers(100, 2000), st.integers(0, 2**32 - 1), st.floats(0.01, 1))
def test_tiles_have_their_share_of_tissue_and_all_that_have_it_are_there(
    width: int, height: int, seed: int, least: float
) -> None:
    """The share against the mask drawn at every pixel of the slide."""
    mask = np.random.default_rng(seed).random((height // 50, width // 50)) < 0.5
    step = (width / mask.shape[1], height / mask.shape[0])
    tissue = Tissue(mask, step)
    coords = make_grid(width, height, scale(64, 64, 64), tissue, tissue_share=least)
    columns = np.minimum((np.arange(width) + 0.5) / step[0], mask.shape[1] - 1).astype(int)
    rows = np.minimum((np.arange(height) + 0.5) / step[1], mask.shape[0] - 1).astype(int)
    drawn = mask[rows][:, columns]
    chosen = set(map(tuple, coords.tolist()))
    for x, y in make_grid(width, height, scale(64, 64, 64), everywhere(width, height)).tolist():
        share = drawn[y : y + 64, x : x + 64].mean()
        if abs(share - least) > 0.04:  # pixels at the border of two of the mask's count as one of them
            assert ((x, y) in chosen) == (share > least)


def test_pieces_of_tissue_that_touch_share_no_tile() -> None:
    mask = np.zeros((10, 10), bool)
    mask[1:4, 1:9] = mask[5:9, 1:9] = True
    coords = make_grid(1000, 1000, scale(130, 130, 130), Tissue(mask, (100.0, 100.0)), tissue_share=0.01)
    assert len(np.unique(coords, axis=0)) == len(coords) > 20


def test_no_tissue_is_no_tile_whatever_the_share() -> None:
    nothing = Tissue(np.zeros((10, 10), bool), (100.0, 100.0))
    assert make_grid(1000, 1000, scale(100, 100, 100), nothing, tissue_share=0).shape == (0, 2)


def test_wrong_requests_are_refused_in_one_line() -> None:
    one = scale(100, 100, 100)
    for overlap in (-1, 100, 1000):
        with pytest.raises(UsageError, match="give 0 to 99"):
            make_grid(1000, 1000, one, everywhere(1000, 1000), overlap=overlap)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match="give 0 to 1"):
            make_grid(1000, 1000, one, everywhere(1000, 1000), tissue_share=share)
    with pytest.raises(UsageError, match="less overlap"):
        make_grid(100_000, 100_000, one, everywhere(100_000, 100_000), overlap=99)
