"""A slide as a picture: drawn whatever there is to draw, and the same each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepath.cli.slides import _finish
from edgepath.exporting import Exported
from edgepath.reports.slide_map import components, draw_slide, drift_scale
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


@pytest.mark.parametrize("gate", [5e-3, 1e-4, 0.0])
@pytest.mark.parametrize("noise_floor", [1.4e-4, 3e-9, 0.0, -1e-12, 1.0])
def test_drift_is_coloured_from_the_noise_floor_to_the_gate(noise_floor: float, gate: float) -> None:
    low, high = drift_scale(noise_floor, gate)
    assert 0 < low <= high / 10
    assert high == max(gate, 1e-6)
    if 1e-7 <= noise_floor <= high / 10:
        assert low == noise_floor


def test_drift_of_a_usual_slide_is_many_colours(slide: Path, tmp_path: Path) -> None:
    colours = []
    with cut(slide, CutSettings()) as one:
        embeddings = np.random.default_rng(0).normal(size=(len(one), 64)).astype(np.float32)
        noise = np.random.default_rng(1).normal(size=embeddings.shape)
        against = embeddings + (np.geomspace(0.02, 0.08, len(one))[:, None] * noise).astype(np.float32)
        for span in ((1.4e-4, 5e-3), (1e-30, 1.0)):
            draw_slide(tmp_path / "a.png", one, embeddings, np.arange(len(one)), title="", against=against, span=span)
            with Image.open(tmp_path / "a.png") as drawn:
                pixels = np.asarray(drawn.convert("RGB"), int)
            right = pixels[
                pixels.shape[0] // 8 : pixels.shape[0] // 2, pixels.shape[1] * 5 // 8 : pixels.shape[1] * 7 // 8
            ]
            colours.append(np.ptp(right.reshape(-1, 3)[np.ptp(right, axis=2).ravel() > 40], axis=0).sum())
    assert colours[0] > 2 * colours[1]


def test_the_scale_is_that_of_the_bundle(exports: Callable[[str], Exported], tmp_path: Path) -> None:
    bundle = exports("onnx-int8").bundle
    finish = _finish(bundle, tmp_path, True, None, None)
    assert finish is not None
    assert finish.noise_floor == 1 - bundle.manifest["drift"]["noise_floor"]["cosine_mean"] > 0
    assert finish.gate == 1 - bundle.manifest["recipe"]["accept"]["cosine_mean"] > 0


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
