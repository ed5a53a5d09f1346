"""Regions of slides: right pixels from any level and thread, and a region that cannot be decoded costs no other."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from slide_files import TILE, destroy_tiles, glass, noise, write_tiff

from edgepath.errors import MissingRuntime, SlideError, TileError
from edgepath.machine import packages
from edgepath.tiles.slides.reader import SlideReader, is_slide, open_slide
from edgepath.tiles.slides.synthetic import write_synthetic_slide


@pytest.fixture
def pixels() -> np.ndarray:
    return noise(4 * TILE, 3 * TILE)


@pytest.fixture
def damaged(tmp_path: Path, pixels: np.ndarray) -> Path:
    """A slide of 4 x 3 tiles; the second of the second row is destroyed."""
    path = write_tiff(tmp_path / "damaged.tif", pixels)
    destroy_tiles(path, [5])
    return path


def refused(path: Path) -> str:
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def open_handles() -> int:
    handles = [one for one in gc.get_objects() if type(one) is openslide.OpenSlide]
    return sum(one._osr._valid for one in handles)


# --- regions


def test_regions_are_the_pixels_of_their_level(tmp_path: Path, pixels: np.ndarray) -> None:
    coarse = noise(2 * TILE, 3 * TILE // 2, seed=1)
    with open_slide(write_tiff(tmp_path / "a.tif", pixels, coarse)) as slide:
        assert (slide.width, slide.height) == (4 * TILE, 3 * TILE)
        assert [level.downsample for level in slide.metadata.levels] == [1, 2]
        assert slide.metadata.mpp == pytest.approx((0.5, 0.5))
        assert np.array_equal(slide.read(100, 30, 0, 64, 50), pixels[30:80, 100:164])
        assert np.array_equal(slide.read(100, 30, 1, 64, 50), coarse[15:65, 50:114])


def test_what_lies_beyond_the_edge_is_white(tmp_path: Path, pixels: np.ndarray) -> None:
    with open_slide(write_tiff(tmp_path / "a.tif", pixels)) as slide:
        corner = slide.read(4 * TILE - 3, 3 * TILE - 2, 0, 8, 8)
    assert np.array_equal(corner[:2, :3], pixels[-2:, -3:])
    assert (corner[2:] == 255).all()
    assert (corner[:, 3:] == 255).all()


@pytest.mark.parametrize("levels", [1, 2])
def test_a_small_slide_of_one_level_is_decoded_once(tmp_path: Path, pixels: np.ndarray, levels: int) -> None:
    path = write_tiff(tmp_path / "a.tif", *[pixels, noise(2 * TILE, 3 * TILE // 2)][:levels])
    with open_slide(path) as slide:
        slide.keep()
        os.truncate(path, 0)
        if levels == 1:
            assert np.array_equal(slide.read(100, 30, 0, 64, 50), pixels[30:80, 100:164])
        else:
            with pytest.raises(TileError):
                slide.read(100, 30, 0, 64, 50)
    with pytest.raises(ValueError, match="closed"):
        slide.read(0, 0, 0, 8, 8)


def test_what_is_kept_is_white_beyond_its_edges(tmp_path: Path, pixels: np.ndarray) -> None:
    regions = [(-3, 5, 9, 9), (4 * TILE - 3, 3 * TILE - 2, 8, 8), (5 * TILE, 0, 8, 8)]
    with open_slide(write_tiff(tmp_path / "a.tif", pixels)) as slide:
        before = [slide.read(x, y, 0, width, height) for x, y, width, height in regions]
        slide.keep()
        after = [slide.read(x, y, 0, width, height) for x, y, width, height in regions]
    assert all(np.array_equal(*both) for both in zip(before, after, strict=True))


# --- damage


def test_a_tile_that_is_destroyed_costs_no_other(damaged: Path, pixels: np.ndarray) -> None:
    bad = []
    with open_slide(damaged) as slide:
        for y in range(0, 3 * TILE, TILE):
            for x in range(0, 4 * TILE, TILE):
                try:
                    found = slide.read(x, y, 0, TILE, TILE)
                except TileError as error:
                    bad.append(str(error))
                else:
                    assert np.array_equal(found, pixels[y : y + TILE, x : x + TILE])
    (message,) = bad
    assert "damaged.tif at (256, 256): cannot be decoded" in message
    assert "\n" not in message


def test_a_damaged_slide_is_not_kept_and_its_other_tiles_are_read(damaged: Path, pixels: np.ndarray) -> None:
    with open_slide(damaged) as slide:
        slide.keep()
        assert np.array_equal(slide.read(0, 0, 0, TILE, TILE), pixels[:TILE, :TILE])
        with pytest.raises(TileError, match="cannot be decoded"):
            slide.read(TILE, TILE, 0, 8, 8)


def test_openslide_answers_every_call_after_an_error_with_it(damaged: Path) -> None:
    """What the reader repairs; when OpenSlide no longer does this, the reader can be simpler."""
    slide = openslide.OpenSlide(damaged)
    with pytest.raises(openslide.OpenSlideError):
        slide.read_region((TILE, TILE), 0, (8, 8))
    with pytest.raises(openslide.OpenSlideError):
        slide.read_region((0, 0), 0, (8, 8))
    slide.close()


def test_an_error_in_one_thread_is_none_of_the_others(damaged: Path, pixels: np.ndarray) -> None:
    places = [(x, y) for _ in range(10) for y in range(0, 3 * TILE, TILE) for x in range(0, 4 * TILE, TILE)]

    def right(place: tuple[int, int]) -> bool | None:
        x, y = place
        try:
            found = slide.read(x + 10, y + 10, 0, 100, 100)
        except TileError:
            return None
        return np.array_equal(found, pixels[y + 10 : y + 110, x + 10 : x + 110])

    with open_slide(damaged) as slide, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(right, places))
    assert [place for place, answer in zip(places, found, strict=True) if answer is not True] == [(TILE, TILE)] * 10


def test_files_are_closed_after_errors_and_threads(damaged: Path) -> None:
    with open_slide(damaged) as slide:
        for _ in range(8):
            with pytest.raises(TileError):
                slide.read(TILE, TILE, 0, 8, 8)
            with ThreadPoolExecutor(1) as pool:
                pool.submit(slide.read, 0, 0, 0, 8, 8).result()
            assert open_handles() == 1
    assert open_handles() == 0


def test_a_closed_slide_is_not_opened_again(damaged: Path) -> None:
    with open_slide(damaged) as slide:
        pass
    with pytest.raises(ValueError, match="closed"):
        slide.read(0, 0, 0, 8, 8)
    assert open_handles() == 0


def test_a_truncated_slide_loses_what_is_cut_off(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write_tiff(tmp_path / "cut.tif", noise(2 * TILE, TILE), pixels, compression=None)  # coarse level first
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 2 * TILE * TILE * 3)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 100, 100), pixels[:100, :100])
        with pytest.raises(TileError, match="cannot be decoded"):
            slide.read(3 * TILE, 2 * TILE, 0, 100, 100)


# --- what is no slide


def test_what_is_no_slide_is_refused_in_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.svs"
    text.write_text("no slide")
    assert "no format that OpenSlide knows" in refused(text)
    empty = tmp_path / "empty.tif"
    empty.write_bytes(b"")
    assert "no format that OpenSlide knows" in refused(empty)
    png = tmp_path / "macro.png"
    Image.fromarray(glass(640, 320)).save(png)
    assert "no format that OpenSlide knows" in refused(png)
    strips = tmp_path / "strips.tif"
    Image.fromarray(glass(640, 320)).save(strips)
    assert "no tiles inside" in refused(strips)
    assert "no such file" in refused(tmp_path / "not-there.svs")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "no DICOM" in refused(folder)


def test_a_slide_cut_off_at_any_length_is_refused_or_costs_tiles(tmp_path: Path) -> None:
    path = write_synthetic_slide(tmp_path / "a.tif", width=512, height=512, pieces=0)
    data = path.read_bytes()
    for length in (0, 4, 16, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises((SlideError, TileError)) as caught, open_slide(path) as slide:
            for level, found in enumerate(slide.metadata.levels):
                slide.read(0, 0, level, found.width, found.height)
        assert "\n" not in str(caught.value)


def test_a_header_that_was_altered_is_refused_or_costs_tiles(tmp_path: Path) -> None:
    data = write_tiff(tmp_path / "a.tif", noise(600, 500), noise(150, 125)).read_bytes()
    drawn = np.random.default_rng(0)
    outcomes = set()
    for number in range(60):
        altered = bytearray(data)
        altered[drawn.integers(8, 700)] = drawn.choice([0, 1, 127, 255])
        path = tmp_path / f"{number}.tif"
        path.write_bytes(altered)
        try:
            with open_slide(path) as slide:
                slide.read(0, 0, 0, 256, 256)
            outcomes.add("read")
        except (SlideError, TileError) as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"read", "SlideError", "TileError"}


def test_a_size_that_no_slide_has_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "wide.tif"
    with tifffile.TiffWriter(path) as file:
        wide = (256, 1_048_832, 3)
        tiles = (b"" for _ in range(4097))
        file.write(tiles, shape=wide, dtype=np.uint8, tile=(TILE, TILE), photometric="rgb", compression="zlib")
    assert "it says 1048832 x 256 pixels, more than a slide of glass has" in refused(path)


def test_a_slide_is_told_from_a_tile_by_its_content(tmp_path: Path) -> None:
    assert is_slide(write_tiff(tmp_path / "pyramid.tif", noise(1024, 1024), noise(256, 256)))
    assert is_slide(write_tiff(tmp_path / "large.tiff", glass(2048, 600)))
    assert not is_slide(write_tiff(tmp_path / "tile.tif", noise(256, 256)))  # in tiles inside, and yet one tile
    assert not is_slide(write_tiff(tmp_path / "big-tile.tif", noise(1024, 1024)))
    Image.fromarray(noise(224, 224)).save(tmp_path / "strips.tif")
    assert not is_slide(tmp_path / "strips.tif")
    Image.fromarray(noise(224, 224)).save(tmp_path / "tile.png")
    assert not is_slide(tmp_path / "tile.png")
    (tmp_path / "text.svs").write_text("no slide")
    assert not is_slide(tmp_path / "text.svs")
    assert not is_slide(tmp_path / "not-there.svs")
    assert not is_slide(tmp_path)


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_importable", lambda name: name != "openslide-python")
    with pytest.raises(MissingRuntime, match=r"pip install 'edgepath\[slides\]'"):
        open_slide(tmp_path / "a.svs")


# --- identity


def test_identity_tells_slides_apart_and_stays(tmp_path: Path, pixels: np.ndarray) -> None:
    def identity(path: Path) -> dict[str, object]:
        with open_slide(path) as slide:
            return slide.identity()

    here = identity(write_tiff(tmp_path / "a.tif", pixels, compression=None))
    assert here["width"] == 4 * TILE
    assert here["height"] == 3 * TILE
    assert here["size_bytes"] == (tmp_path / "a.tif").stat().st_size
    assert identity(write_tiff(tmp_path / "b.tif", pixels, compression=None)) == here
    changed = pixels.copy()
    changed[3 * TILE // 2, 2 * TILE] ^= 1  # far behind what is hashed of the file's start
    assert identity(write_tiff(tmp_path / "c.tif", changed, compression=None)) != here


def test_identity_of_a_damaged_slide_is_one_too(damaged: Path) -> None:
    with open_slide(damaged) as slide:
        assert slide.identity() == slide.identity()


def test_the_real_slide(checkout: Path) -> None:
    path = checkout.parent / "shared" / "slides" / "CMU-1-Small-Region.svs"
    if not path.is_file():
        pytest.skip("needs ../shared/slides/CMU-1-Small-Region.svs beside the checkout")
    assert is_slide(path)
    with open_slide(path) as slide:
        assert isinstance(slide, SlideReader)
        assert (slide.metadata.vendor, slide.width, slide.height) == ("aperio", 2220, 2967)
        assert slide.metadata.mpp == (0.499, 0.499)
        assert slide.metadata.power == 20
        assert slide.read(1100, 1500, 0, 500, 500).std() > 10
