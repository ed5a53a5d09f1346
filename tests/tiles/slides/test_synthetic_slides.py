"""Procedural slides: the same from the same arguments, a pyramid that adds up, a scale, tissue on glass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from slide_files import GLASS

from edgepath.errors import UsageError
from edgepath.tiles.slides.reader import is_slide, open_slide
from edgepath.tiles.slides.synthetic import write_synthetic_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_slide(
        tmp_path_factory.mktemp("slide") / "a.tif", seed=3, width=1536, height=1024, pieces=2, mpp=0.31
    )


def levels(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as file:
        return [page.asarray() for page in file.pages]


def test_the_same_arguments_write_the_same_file(slide: Path, tmp_path: Path) -> None:
    again = write_synthetic_slide(tmp_path / "b.tif", seed=3, width=1536, height=1024, pieces=2, mpp=0.31)
    assert again.read_bytes() == slide.read_bytes()
    other = write_synthetic_slide(tmp_path / "c.tif", seed=4, width=1536, height=1024, pieces=2, mpp=0.31)
    assert other.read_bytes() != slide.read_bytes()


def test_coarser_levels_are_means_of_the_finest(slide: Path) -> None:
    finest, *coarser = levels(slide)
    assert [level.shape for level in (finest, *coarser)] == [(1024, 1536, 3), (256, 384, 3), (64, 96, 3)]
    for level, factor in zip(coarser, (4, 16), strict=True):
        rows, columns = level.shape[:2]
        means = finest.reshape(rows, factor, columns, factor, 3).mean((1, 3))
        assert np.abs(level - means).max() <= 0.5 + 1e-6


def test_a_reader_finds_the_levels_the_scale_and_the_tissue(slide: Path) -> None:
    assert is_slide(slide)
    with open_slide(slide) as opened:
        assert opened.metadata.mpp == pytest.approx((0.31, 0.31))
        assert [level.downsample for level in opened.metadata.levels] == [1, 4, 16]
        pixels = opened.read(0, 0, 2, 96, 64)
    tissue = np.abs(pixels.astype(int) - GLASS).max(2) > 20
    assert 0.03 < tissue.mean() < 0.7
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edges == GLASS).mean() > 0.9


@pytest.mark.parametrize(("width", "height"), [(513, 900), (1000, 512), (1030, 1030)])
def test_sides_need_not_be_those_of_tiles(tmp_path: Path, width: int, height: int) -> None:
    path = write_synthetic_slide(tmp_path / "a.tif", width=width, height=height, pieces=1)
    assert [level.shape[:2] for level in levels(path)] == [
        (-(-height // factor), -(-width // factor)) for factor in (1, 4, 16)
    ]
    with open_slide(path) as opened:
        assert (opened.width, opened.height) == (width, height)


def test_glass_alone_can_be_asked_for(tmp_path: Path) -> None:
    assert all((level == GLASS).all() for level in levels(write_synthetic_slide(tmp_path / "a.tif", pieces=0)))


@pytest.mark.parametrize("wrong", [{"width": 100}, {"height": 0}, {"pieces": -1}, {"mpp": 0}, {"mpp": float("nan")}])
def test_what_is_no_slide_is_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="synthetic slide"):
        write_synthetic_slide(tmp_path / "a.tif", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "a.tif").exists()
