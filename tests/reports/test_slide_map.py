"""A slide as a picture: drawn whatever there is to draw, and the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepath.reports.slide_map import components, draw_slide
from edgepath.tiles.slides.cutting import CutSettings, cut
from edgepath.tiles.slides.synthetic import write_synthetic_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slide")
    return write_synthetic_slide(folder / "a.tif", seed=1, width=1536, height=1024, pieces=1)


@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize("compared", [False, True])
def test_one_slide_gives_one_picture(slide: Path, tmp_path: Path, bad: int, compared: bool) -> None:
    with cut(slide, CutSettings()) as one:
        which = np.arange(len(one) - bad)
        embeddings = np.random.default_rng(0).normal(size=(len(which), 8)).astype(np.float32)
        against = embeddings + np.float32(0.01) if compared else None
        for name in ("a.png", "b.png"):
            draw_slide(tmp_path / name, one, embeddings, which, title="a slide", against=against)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as drawn:
        assert len(drawn.convert("RGB").getcolors(1 << 24)) > 100


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_tiles_are_drawn(slide: Path, tmp_path: Path, count: int) -> None:
    with cut(slide, CutSettings()) as one:
        one.coords = one.coords[:count]
        embeddings = np.ones((count, 8), np.float32)
        draw_slide(tmp_path / "a.png", one, embeddings, np.arange(count), title="few", against=embeddings)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_components_are_told_apart_and_do_not_change_sign() -> None:
    rng = np.random.default_rng(1)
    embeddings = (rng.normal(size=(200, 3)) * [9, 3, 1]) @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    colours, shares = components(embeddings)
    assert colours.shape == (200, 3)
    assert (colours.min(0) == 0).all()
    assert (colours.max(0) == 1).all()
    assert shares.tolist() == sorted(shares.tolist(), reverse=True)
    assert shares.sum() == pytest.approx(1)
    again, _ = components(embeddings[::-1])
    assert np.allclose(again[::-1], colours)
