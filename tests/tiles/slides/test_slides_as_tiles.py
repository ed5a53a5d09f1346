"""Slides where a folder of tiles is asked for: told by content, cut as they are read, every slide's tiles in a pack."""

from __future__ import annotations

import csv
import gc
import logging
import shutil
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image
from slide_files import TILE, destroy_tiles, noise, stained, write_dicom, write_tiff

from edgepath.errors import EdgepathError, SlideError, TileError, UsageError
from edgepath.tiles.opening import open_tiles
from edgepath.tiles.packs import build_pack, check_pack
from edgepath.tiles.slides import source as slides_as_tiles
from edgepath.tiles.slides.cutting import CutSettings, cut
from edgepath.tiles.slides.synthetic import write_synthetic_slide

SIZE = 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three slides, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("made") / "lab"
    (folder / "deeper").mkdir(parents=True)
    for number, name in enumerate(("a.tif", "b.tiff", "deeper/c.tif")):
        write_synthetic_slide(folder / name, seed=number, width=1024, height=1024, pieces=1)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "lab"))


def open_handles() -> int:
    handles = [one for one in gc.get_objects() if type(one) is openslide.OpenSlide]
    return sum(one._osr._valid for one in handles)


def refused(source: str | Path | list[str | Path], kind: type[EdgepathError] = TileError) -> str:
    with pytest.raises(kind) as caught:
        open_tiles(source, size=SIZE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_of_slides_gives_the_tiles_that_are_cut_from_them(folder: Path) -> None:
    (folder / "notes.txt").write_text("no slide")
    (folder / "._a.tif").write_bytes(b"what a Mac leaves on a stick")
    source = open_tiles(folder, size=SIZE)
    assert (source.kind, source.name) == ("slides", "lab")
    expected: dict[str, np.ndarray] = {}
    for name, path in (("a", "a.tif"), ("b", "b.tiff"), ("c", "deeper/c.tif")):
        with cut(folder / path, CutSettings(size=SIZE)) as slide:
            assert len(slide) > 10
            expected |= {f"{name}/{x}_{y}": slide.tile(i) for i, (x, y) in enumerate(slide.coords.tolist())}
    assert source.keys == tuple(expected)
    batches = list(source.batches(20, threads=4))
    assert [key for batch in batches for key in batch.keys] == list(expected)
    assert np.array_equal(np.concatenate([batch.pixels for batch in batches]), np.stack(list(expected.values())))
    told = source.provenance()
    assert told["slides"] == {"count": 3, "mpp": 0.5}
    assert told == open_tiles(folder, size=SIZE).provenance()


def test_one_slide_and_lists_of_slides(folder: Path) -> None:
    one, both = open_tiles(folder / "a.tif", size=SIZE), open_tiles([folder / "a.tif", folder / "deeper"], size=SIZE)
    assert one.name == "a.tif"
    assert {key.split("/")[0] for key in one.keys} == {"a"}
    assert {key.split("/")[0] for key in both.keys} == {"a", "c"}
    assert len(both) > len(one)


def test_equal_names_in_different_folders_stay_apart(folder: Path) -> None:
    shutil.copy(folder / "a.tif", folder / "deeper" / "a.tif")
    source = open_tiles(folder, size=SIZE)
    assert {key.rpartition("/")[0] for key in source.keys} == {"a.tif", "b", "c", "deeper/a.tif"}
    source.batches(8)


def test_a_folder_of_dicom_is_one_slide(tmp_path: Path) -> None:
    pixels = stained(300, 300)
    for number in range(2):
        (tmp_path / f"case-{number}").mkdir()
        write_dicom(tmp_path / f"case-{number}" / "a.dcm", pixels, series=f"1.2.{number}")
        write_dicom(tmp_path / f"case-{number}" / "b.dcm", noise(80, 60), series=f"1.2.{number}", kind="LABEL")
    source = open_tiles(tmp_path, size=SIZE)
    assert {key.split("/")[0] for key in source.keys} == {"case-0", "case-1"}
    assert np.array_equal(source.read([0])[0], pixels[:SIZE, :SIZE])


def test_tiles_stay_tiles(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", noise(256, 256))  # in tiles inside, as a slide is
    Image.fromarray(noise(256, 256, 1)).save(tmp_path / "b.tif")
    Image.fromarray(noise(256, 256, 2)).save(tmp_path / "c.png")
    source = open_tiles(tmp_path, size=256)
    assert (source.kind, source.keys) == ("folder", ("a.tif", "b.tif", "c.png"))
    assert open_tiles(tmp_path / "a.tif", size=256).kind == "files"
    assert open_tiles("synthetic:3", size=SIZE).kind == "synthetic"
    assert open_tiles(tmp_path, size=128, resize="crop").read().shape == (3, 128, 128, 3)


def test_slides_and_tiles_together_are_refused(folder: Path) -> None:
    Image.fromarray(noise(SIZE, SIZE)).save(folder / "tile.png")
    message = refused(folder, UsageError)
    assert "slides (3, a.tif) and single images (1, tile.png) together" in message
    assert "together" in refused([folder / "a.tif", folder / "tile.png"], UsageError)


def test_a_slide_that_cannot_be_cut_is_named_or_left_out_and_listed(folder: Path) -> None:
    write_tiff(folder / "d.tif", noise(2048, 512), mpp=None)
    (folder / "e.svs").write_text("no slide")
    assert "slide d.tif: its metadata have no um per pixel" in refused(folder, SlideError)
    source = open_tiles(folder, size=SIZE, skip_bad=True)
    assert [name for name, _ in source.skipped] == ["d", "e"]
    assert {key.split("/")[0] for key in source.keys} == {"a", "b", "c"}


def test_slides_without_tissue_are_no_tiles(tmp_path: Path) -> None:
    write_synthetic_slide(tmp_path / "glass.tif", width=1024, height=1024, pieces=0)
    assert "1 slides, and no tile of them (no tissue was found on them)" in refused(tmp_path)


def test_a_tile_that_cannot_be_decoded_is_an_error_or_left_out(tmp_path: Path) -> None:
    pixels = stained(8 * TILE, TILE)
    path = write_tiff(tmp_path / "a.tif", pixels)
    destroy_tiles(path, [2])
    with pytest.raises(TileError, match="cannot be decoded"):
        open_tiles(path, size=TILE).read()
    source = open_tiles(path, size=TILE, skip_bad=True)
    assert len(source.read()) == 7
    assert [key for key, _ in source.skipped] == ["a/512_0"]


def test_a_slide_that_is_gone_is_an_error_of_its_tiles(folder: Path) -> None:
    source = open_tiles(folder, size=SIZE)
    (folder / "a.tif").unlink()
    with pytest.raises(TileError, match="no such file"):
        source.read([0])


def test_few_slides_are_open_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides_as_tiles, "_OPEN", 1)
    gc.collect()
    before = open_handles()
    source = open_tiles(folder, size=SIZE)
    assert open_handles() == before
    whole = source.read()
    assert open_handles() == before + 1
    mixed = np.random.default_rng(0).permutation(len(source))
    read = np.concatenate([batch.pixels for batch in source.select(mixed.tolist()).batches(16, threads=6)])
    assert np.array_equal(read, whole[mixed])
    assert open_handles() <= before + 1
    del source
    gc.collect()
    assert open_handles() == before


def test_cautions_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = stained(1200, 1200)
    with caplog.at_level(logging.WARNING):
        open_tiles(write_tiff(tmp_path / "odd.tif", pixels, mpp=(0.25, 0.4)), size=SIZE)
    assert "slide odd.tif: pixels span 0.25 um in x and 0.4 um in y" in caplog.text


def test_a_pack_takes_alike_of_every_slide(folder: Path, tmp_path: Path) -> None:
    info = build_pack(folder, tmp_path / "pack", 12, seed=1)
    assert info.count == 12
    check_pack(tmp_path / "pack")
    with open(tmp_path / "pack" / "tiles.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["slide"] for row in rows) == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    for row in rows:
        assert row["mpp"] == "0.5"
        assert row["source_path"] == f"{row['slide']}/{row['x']}_{row['y']}"


def test_synthetic_slides_are_written_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPATH_CACHE", str(tmp_path))
    source = open_tiles("synthetic-slide:1:3", size=224)
    assert (source.kind, source.name) == ("slides", "synthetic-slide")
    assert len(source) > 5
    (path,) = tmp_path.rglob("*.tif")
    written = path.stat().st_mtime_ns
    assert open_tiles("synthetic-slide:1:3", size=224).keys == source.keys
    assert path.stat().st_mtime_ns == written
    assert {key.split("/")[0] for key in source.keys} == {"synthetic-3-000"}


@pytest.mark.parametrize(
    "source", ["synthetic-slide:x", "synthetic-slide:0", "synthetic-slide:5000", "synthetic-slide:"]
)
def test_synthetic_slides_are_asked_for_in_one_way(source: str) -> None:
    assert "synthetic" in refused(source, UsageError)
