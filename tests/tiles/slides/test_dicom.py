"""Slides as DICOM: files and folders, read by OpenSlide or else by wsidicom; labels are no slides."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
from slide_files import TILE, noise, write_dicom

from edgepath.errors import SlideError, TileError
from edgepath.tiles.slides.cutting import CutSettings, cut
from edgepath.tiles.slides.reader import is_slide, open_slide

FINE, COARSE = noise(600, 500), noise(300, 250, seed=1)


def write_slide(folder: Path, *, rle: bool, mpp: tuple[float, float] = (0.5, 0.5)) -> Path:
    folder.mkdir()
    write_dicom(folder / "a-label.dcm", noise(100, 80), kind="LABEL", rle=rle)
    write_dicom(folder / "b.dcm", COARSE, mpp=(2 * mpp[0], 2 * mpp[1]), resampled=True, rle=rle)
    write_dicom(folder / "c.dcm", FINE, mpp=mpp, rle=rle)
    write_dicom(folder / "d-macro.dcm", noise(200, 80), kind="OVERVIEW", rle=rle)
    return folder


@pytest.fixture(params=[False, True], ids=["openslide", "wsidicom"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_slide(tmp_path / "slide", rle=request.param)


def refused(path: Path) -> str:
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_openslide_refuses_what_wsidicom_is_for(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", FINE, rle=True)
    with pytest.raises(openslide.OpenSlideError, match="Unsupported transfer syntax"):
        openslide.OpenSlide(path)


@pytest.mark.parametrize("name", ["", "b.dcm", "c.dcm"])
def test_a_folder_or_any_file_of_it_is_the_slide(folder: Path, name: str) -> None:
    path = folder / name
    assert is_slide(path)
    with open_slide(path) as slide:
        assert [(level.width, level.height, level.downsample) for level in slide.metadata.levels] == [
            (600, 500, 1),
            (300, 250, 2),
        ]
        assert slide.metadata.mpp == pytest.approx((0.5, 0.5))
        assert np.array_equal(slide.read(100, 50, 0, 200, 300), FINE[50:350, 100:300])
        assert np.array_equal(slide.read(100, 50, 1, 64, 32), COARSE[25:57, 50:114])
        corner = slide.read(590, 495, 0, 20, 20)
        assert np.array_equal(corner[:5, :10], FINE[-5:, -10:])
        assert (corner[5:] == 255).all()
        assert (corner[:, 10:] == 255).all()
        assert slide.identity()["width"] == 600


def test_x_and_y_are_not_exchanged(tmp_path: Path) -> None:
    for rle in (False, True):
        with open_slide(write_slide(tmp_path / f"{rle}", rle=rle, mpp=(0.25, 0.5))) as slide:
            assert slide.metadata.mpp == pytest.approx((0.25, 0.5))


def test_tiles_are_cut_from_several_threads(folder: Path) -> None:
    settings = CutSettings(size=100, tissue="none")
    with cut(folder, settings) as slide, ThreadPoolExecutor(4) as pool:
        tiles = list(pool.map(slide.tile, range(len(slide))))
        assert len(tiles) == 30
        for tile, (x, y) in zip(tiles, slide.coords, strict=True):
            assert np.array_equal(tile, FINE[y : y + 100, x : x + 100])


def test_a_frame_that_is_destroyed_costs_no_other(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", FINE, rle=True)
    data = bytearray(path.read_bytes())
    last = data.rfind(b"\xfe\xff\x00\xe0") + 8  # behind the tag and length of the last of six frames
    data[last : last + 64] = b"\xff" * 64
    path.write_bytes(data)
    with open_slide(path) as slide:
        with pytest.raises(TileError, match=r"a.dcm at \(550, 450\): cannot be decoded"):
            slide.read(550, 450, 0, 20, 20)
        assert np.array_equal(slide.read(0, 0, 0, TILE, TILE), FINE[:TILE, :TILE])


def test_a_label_or_overview_is_no_slide(folder: Path, tmp_path: Path) -> None:
    assert "a DICOM image of kind LABEL, no slide" in refused(folder / "a-label.dcm")
    assert "a DICOM image of kind OVERVIEW, no slide" in refused(folder / "d-macro.dcm")
    labels = tmp_path / "labels"
    labels.mkdir()
    (folder / "a-label.dcm").rename(labels / "a-label.dcm")
    assert "no slide among its DICOM files" in refused(labels)


def test_two_slides_in_one_folder_are_not_taken_for_one(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", FINE, series="1.2.3.4")
    write_dicom(tmp_path / "b.dcm", FINE[::-1].copy(), series="1.2.3.5")
    assert "2 DICOM series; give each slide a folder of its own" in refused(tmp_path)
    for name, pixels in (("a.dcm", FINE), ("b.dcm", FINE[::-1])):
        with open_slide(tmp_path / name) as slide:
            assert np.array_equal(slide.read(0, 0, 0, 50, 50), pixels[:50, :50])


def test_what_is_no_dicom_or_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("no slide")
    assert "cannot be read as DICOM" in refused(tmp_path / "text.dcm")
    (tmp_path / "text.dcm").unlink()
    path = write_dicom(tmp_path / "a.dcm", FINE)
    data = path.read_bytes()
    for length in (0, 100, 400, 1000, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises((SlideError, TileError)) as caught, open_slide(path) as slide:
            slide.read(0, 0, 0, 600, 500)
        assert "\n" not in str(caught.value)
