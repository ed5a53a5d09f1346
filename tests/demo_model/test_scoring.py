"""Figures of a set with known answers, and a baseline that sees colours only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgepath.tiles.opening import open_tiles
from edgepath.tiles.source import TileSource
from tools.demo_model.scoring import HEADER, LABELLED, REGISTERED, colour_histogram, evaluate, score_rows

CLASSES = {"osteosarcoma": ("Viable", "Non-Tumor"), "oral_oscc": ("Normal", "OSCC")}


def flat(red: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-3, 4, (224, 224, 3))
    return np.clip(np.array([red, 90, 160]) + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TileSource:
    """Two labelled sets whose classes differ in redness, and 12 places of their own redness on three scanners."""
    root = tmp_path_factory.mktemp("sets")
    for folder in LABELLED:
        for number, name in enumerate(CLASSES[folder]):
            for i in range(6):
                save(root / folder / name / f"{i}.png", flat(100 + 80 * number, i))
    for shift, scanner in enumerate(("a", "b", "c")):
        for place in range(12):
            save(root / REGISTERED / scanner / f"{place:02d}.png", flat(20 + 15 * place + shift, 100 * shift + place))
    return open_tiles(root)


def save(path: Path, tile: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tile).save(path, compress_level=1)


def redness(tiles: np.ndarray) -> np.ndarray:
    angle = tiles[..., 0].mean((1, 2)) / 255 * np.pi / 2
    return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def nothing(tiles: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(tiles), 4)).astype(np.float32)


def test_what_sees_the_difference_is_told_from_what_does_not(source: TileSource) -> None:
    found = evaluate({"redness": redness, "nothing": nothing}, source)
    for folder in LABELLED:
        assert found["redness"][folder]["knn"]["balanced_accuracy"] == 1.0
        assert found["redness"][folder]["linear"]["balanced_accuracy"] == 1.0
        assert found["redness"][folder]["knn"]["tiles"] == 12
        assert found["nothing"][folder]["knn"]["balanced_accuracy"] < 1.0
    assert found["redness"][REGISTERED]["top1"] == 1.0
    assert found["redness"][REGISTERED]["places"] == 12
    assert found["nothing"][REGISTERED]["top1"] < 0.5
    rows = score_rows(found)
    assert [row[0] for row in rows] == ["redness", "nothing"]
    assert {len(row) for row in rows} == {len(HEADER)}


def test_colour_histogram_is_numpys() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    found = colour_histogram(tiles)
    counts = [np.histogram(tiles[1, ..., channel], bins=32, range=(0, 256))[0] for channel in range(3)]
    np.testing.assert_allclose(found[1], np.sqrt(np.concatenate(counts) / (224 * 224)), rtol=1e-6)
    assert found.shape == (2, 96)
