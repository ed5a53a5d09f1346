"""Perturbations do what their axis says, and the curves begin at 1."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepath.errors import UsageError
from edgepath.exporting import Exported
from edgepath.quality.both_models import ARTIFACT, FULL
from edgepath.quality.curves import curves
from edgepath.quality.perturbations import PERTURBATIONS, Perturbation, brighten, compress, gamma, perturb, turn
from edgepath.reports.drawings import draw_curves
from edgepath.reports.tables.quality import curve_table
from edgepath.tiles.synthetic import synthesize

Exports = Callable[[str], Exported]
TILES = synthesize(3, seed=9)


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda p: p.name)
def test_the_first_degree_is_none_and_the_last_the_most(perturbation: Perturbation) -> None:
    moved = [perturb(perturbation, TILES, degree).astype(float) for degree in perturbation.degrees]
    apart = [float(np.abs(tiles - TILES).mean()) for tiles in moved]
    assert apart[0] <= 0.6  # rounding, there and back
    if perturbation.name != "turned":
        assert all(later > earlier for earlier, later in pairwise(apart))
    assert all(tiles.shape == TILES.shape for tiles in moved)
    again = perturb(perturbation, TILES, perturbation.degrees[-1])
    assert np.array_equal(again, moved[-1])


def test_formulas() -> None:
    rng = np.random.default_rng
    grey = np.full((8, 8, 3), 128, np.uint8)
    assert brighten(grey, 0.1, rng(0))[0, 0, 0] in (round(128 * 1.1), round(128 * 0.9))
    assert gamma(grey, 0.4, rng(0))[0, 0, 0] in (
        round(255 * (128 / 255) ** np.exp(0.4)),
        round(255 * (128 / 255) ** np.exp(-0.4)),
    )
    turned = [turn(TILES[0], degree, rng(0)) for degree in range(8)]
    assert len({tile.tobytes() for tile in turned}) == 8
    assert all(np.array_equal(np.sort(tile, axis=None), np.sort(TILES[0], axis=None)) for tile in turned)
    assert np.array_equal(compress(TILES[0], 0, rng(0)), TILES[0])


def test_grey_stays_grey_under_another_scanner() -> None:
    tint = next(p for p in PERTURBATIONS if p.name == "scanner colour")
    grey = np.full((1, 8, 8, 3), 128, np.uint8)
    assert np.abs(perturb(tint, grey, 0.2).astype(int) - 128).max() <= 1


def test_curves_of_both_models(exports: Exports, tmp_path: Path) -> None:
    result = curves(exports("onnx-int8").bundle, "synthetic:4", device="cpu", threads=2)
    assert result["kind"] == "curves"
    assert list(result["ran_with"]) == [FULL, ARTIFACT]
    assert [curve["name"] for curve in result["curves"]] == [p.name for p in PERTURBATIONS]
    for curve in result["curves"]:
        assert set(curve["figures"]) == {FULL, ARTIFACT}
        for figures in curve["figures"].values():
            assert len(figures) == len(curve["degrees"])
            assert figures[0] == {"cosine": 1.0, "own": 1.0}
            assert all(-1 <= degree["cosine"] <= 1 for degree in figures)
    blur = next(curve for curve in result["curves"] if curve["name"] == "defocus")
    assert blur["figures"][FULL][-1]["cosine"] < blur["figures"][FULL][1]["cosine"] < 1
    shown = curve_table(result)
    assert all(len(row) == len(shown.header) for row in shown.rows)
    draw_curves(result, tmp_path / "curves.png")
    assert np.array(Image.open(tmp_path / "curves.png")).std() > 5


def test_too_many_or_too_few_tiles_are_refused(exports: Exports) -> None:
    for count in (1, 257):
        with pytest.raises(UsageError, match=f"{count} tiles; give --tiles with 2 to 256"):
            curves(exports("onnx-int8").bundle, f"synthetic:{count}", device="cpu")
