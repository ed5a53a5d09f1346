"""Tiles of an exact scale, measured on a ruler drawn on slides; pixels against block means; edges; threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from slide_files import TILE, destroy_tiles, noise, stained, write_tiff

from edgepath.errors import SlideError, TileError, UsageError
from edgepath.tiles.slides import cutting
from edgepath.tiles.slides.cutting import CutSettings, cut

EVERY = 10.0  # um between the lines of the ruler


def ruler(side: int, mpp: tuple[float, float], downsample: float = 1) -> np.ndarray:
    """Draw lines `EVERY` um in x and in y, as a level of a slide whose finest pixels are `mpp` um."""

    def lines(um: float) -> np.ndarray:
        places = (np.arange(int(side / downsample)) + 0.5) * downsample * um
        away = (places + EVERY / 2) % EVERY - EVERY / 2
        return np.exp(-((away / 1.2) ** 2))

    dark = np.maximum.outer(lines(mpp[1]), lines(mpp[0]))
    return np.rint(250 - 200 * dark).astype(np.uint8)[..., None].repeat(3, axis=2)


def measured(tile: np.ndarray, axis: int) -> float:
    """Return um per pixel along an axis: the centres of the ruler's lines, and a straight line through them."""
    dark = 255 - tile[..., 1].mean(1 - axis)
    dark = (dark - np.median(dark) - 10).clip(0)
    inside = np.flatnonzero(dark)
    lines = [line for line in np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1) if 0 < line[0] < line[-1]]
    centres = [float((dark[line] * line).sum() / dark[line].sum()) for line in lines if line[-1] < len(dark) - 1]
    assert len(centres) >= 3
    return EVERY / float(np.polyfit(np.arange(len(centres)), centres, 1)[0])


@pytest.mark.parametrize("mpp", [0.25, 0.31, 0.5, 0.59])
@pytest.mark.parametrize(
    ("here", "downsamples"),
    [
        ((0.25, 0.25), ()),
        ((0.2431, 0.2431), ()),
        ((0.2431, 0.2431), (1.27, 2.043)),  # levels whose downsample is not whole: 0.309 um, 0.497 um
        ((0.1217, 0.1217), (2, 4.0004)),
        ((0.2431, 0.229), (2,)),  # x and y apart
    ],
)
def test_tiles_have_the_scale_that_was_asked_for(
    tmp_path: Path, mpp: float, here: tuple[float, float], downsamples: tuple[float, ...]
) -> None:
    side = 1536 if min(here) < 0.2 else 1024
    path = write_tiff(tmp_path / "ruler.tif", *(ruler(side, here, d) for d in (1, *downsamples)), mpp=here)
    with cut(path, CutSettings(size=224, mpp=mpp, tissue="none")) as slide:
        assert slide.scale.level == sum(here[0] * d <= mpp for d in downsamples)
        tiles = [slide.tile(i) for i in range(len(slide))]
    errors = [abs(measured(tile, axis) / mpp - 1) for tile in tiles for axis in (0, 1)]
    print(f"mpp {mpp} of {here}, {downsamples}: level {slide.scale.level}, error {max(errors):.3%} of {len(errors)}")
    assert max(errors) <= 0.005


def test_the_real_scale_of_a_slide_that_says_another_is_given(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "wrong.tif", ruler(1024, (0.25, 0.25)), mpp=0.5)
    with cut(path, CutSettings(mpp=0.5, tissue="none", mpp_of_slide=0.25)) as slide:
        assert measured(slide.tile(0), 0) == pytest.approx(0.5, rel=0.005)


def test_tiles_of_the_slides_own_scale_are_its_pixels(tmp_path: Path) -> None:
    pixels = noise(700, 500)
    with cut(write_tiff(tmp_path / "a.tif", pixels), CutSettings(size=100, tissue="none")) as slide:
        assert slide.scale.resampling == "none"
        assert len(slide) == 35
        for i, (x, y) in enumerate(slide.coords):
            assert np.array_equal(slide.tile(i), pixels[y : y + 100, x : x + 100])


def test_a_whole_factor_is_the_mean_of_blocks(tmp_path: Path) -> None:
    pixels = noise(600, 600)
    with cut(write_tiff(tmp_path / "a.tif", pixels), CutSettings(size=64, mpp=1.5, tissue="none")) as slide:
        assert slide.scale.resampling == "area"
        x, y = slide.coords[4]
        means = pixels[y : y + 192, x : x + 192].reshape(64, 3, 64, 3, 3).mean((1, 3))
        assert np.abs(slide.tile(4) - means).max() <= 0.5 + 1e-4


def test_any_factor_is_the_mean_over_each_pixels_area(tmp_path: Path) -> None:
    """Against pixels drawn 20 times finer: of 0.5 and 0.62 um, the parts are whole numbers of those."""
    pixels = noise(160, 160)
    settings = CutSettings(size=100, mpp=0.62, tissue="none")
    with cut(write_tiff(tmp_path / "a.tif", np.pad(pixels, ((0, 96), (0, 96), (0, 0)))), settings) as slide:
        found = slide.tile(0)
    fine = pixels[:124, :124].repeat(25, 0).repeat(25, 1).astype(np.float32)
    means = fine.reshape(100, 31, 100, 31, 3).mean((1, 3))
    assert np.abs(found - means).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("count", "start", "side"), [(90, 0.1, 89.1), (10, 0.25, 9.5)])
def test_the_filter_of_pixels_side_by_side_is_that_of_one_for_each_channel(
    count: int, start: float, side: float
) -> None:
    one, three = (cutting._shares(count, start, side, 24, channels).toarray() for channels in (1, 3))
    np.testing.assert_array_equal(three, np.kron(one, np.eye(3)))


def test_no_bit_of_a_tile_depends_on_the_order_of_sums() -> None:
    """Which differs between processors and libraries: against the same sums in whole numbers."""
    pixels = noise(100, 90)
    rows, columns = (cutting._shares(100, 0.3, 98.7, 64).toarray(), cutting._shares(90, 0.1, 89.1, 64).toarray())
    whole = [np.rint(shares * 2**20).astype(np.int64) for shares in (columns, rows)]
    exact = np.einsum("iy,yxc,jx->ijc", whole[0], pixels.astype(np.int64), whole[1], optimize=True) / 2**40
    assert np.array_equal(cutting._means(pixels, (0.3, 0.1), (98.7, 89.1), 64), exact)


@pytest.mark.parametrize(("width", "height", "factor"), [(1024, 1023, 4), (1001, 1000, 2.5), (1023, 1024, 16)])
def test_a_flat_slide_stays_flat_to_its_edges(tmp_path: Path, width: int, height: int, factor: float) -> None:
    """A level has whole pixels, so its last one may lack a part: no white line may come in there."""
    flat = [np.full((int(height / f), int(width / f), 3), 90, np.uint8) for f in (1, factor)]
    mpp = 0.25 * factor * 1.02
    size = int(0.25 * min(width, height) / mpp)
    with cut(write_tiff(tmp_path / "a.tif", *flat, mpp=0.25), CutSettings(size, mpp, tissue="none")) as slide:
        assert slide.scale.level == 1
        assert len(slide) > 0
        slide.coords = np.array([[width, height]]) - np.ceil([[slide.scale.width, slide.scale.height]]).astype(int)
        assert (slide.tile(0) == 90).all()


def test_upsampled_tiles_take_the_pixel_they_lie_in(tmp_path: Path) -> None:
    pixels = noise(256, 256)
    settings = CutSettings(size=100, mpp=0.25, tissue="none", allow_upsampling=True)
    with cut(write_tiff(tmp_path / "a.tif", pixels), settings) as slide:
        assert np.array_equal(slide.tile(0), pixels[:50, :50].repeat(2, 0).repeat(2, 1))


def test_threads_cut_the_same_tiles_and_a_bad_one_costs_itself(tmp_path: Path) -> None:
    pixels = noise(4 * TILE, 4 * TILE)
    path = write_tiff(tmp_path / "a.tif", pixels)
    with cut(path, CutSettings(size=128, mpp=0.6, tissue="none")) as slide:
        whole = [slide.tile(i) for i in range(len(slide))]
    destroy_tiles(path, [6])
    with cut(path, CutSettings(size=128, mpp=0.6, tissue="none")) as slide, ThreadPoolExecutor(4) as pool:

        def tile(index: int) -> np.ndarray | None:
            try:
                return slide.tile(index)
            except TileError:
                return None

        found = list(pool.map(tile, range(len(slide))))
        side = slide.scale.width
        touched = [
            x < 3 * TILE and x + side > 2 * TILE and y < 2 * TILE and y + side > TILE for x, y in slide.coords.tolist()
        ]
    assert any(touched)
    for before, after, bad in zip(whole, found, touched, strict=True):
        assert (after is None) == bad
        assert after is None or np.array_equal(before, after)


def test_a_slide_smaller_than_a_tile_has_none(tmp_path: Path) -> None:
    with cut(write_tiff(tmp_path / "a.tif", noise(256, 256)), CutSettings(size=300, tissue="none")) as slide:
        assert slide.coords.shape == (0, 2)


def test_what_is_read_for_one_tile_is_bounded(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(256, 256))
    with pytest.raises(SlideError, match="is 8960 pixels of its nearest finer level, at most 4096"):
        cut(path, CutSettings(mpp=20.0, tissue="none"))


@pytest.mark.parametrize("size", [0, -1, 100_000])
def test_sizes_of_tiles_are_bounded(tmp_path: Path, size: int) -> None:
    with pytest.raises(UsageError, match="give 1 to"):
        cut(write_tiff(tmp_path / "a.tif", noise(256, 256)), CutSettings(size=size, tissue="none"))


def test_a_slide_coarser_than_the_mask_of_tissue(tmp_path: Path) -> None:
    with cut(write_tiff(tmp_path / "a.tif", stained(512, 512), mpp=10.0), CutSettings(size=64, mpp=10)) as slide:
        assert slide.tissue.mask.shape == (512, 512)
        assert len(slide) == 64


def test_settings_are_json(tmp_path: Path) -> None:
    assert CutSettings().to_json()["mpp"] == 0.5
    with pytest.raises(SlideError, match="--mpp-of-slide"):
        cut(write_tiff(tmp_path / "a.tif", noise(256, 256), mpp=None), CutSettings())
