"""The pictures in the page are the golden tiles that the report names, and none where it names none."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from edgepath.reports.page.tilestrip import pictures


def test_pictures_are_the_worst_tiles(tiles: np.ndarray) -> None:
    worst = [{"tile": "<b>.png", "golden": 5, "cosine": 0.5}, {"tile": "c.png", "golden": 2, "cosine": 0.75}]
    shown = pictures({"worst": {"of": "total", "tiles": worst}}, tiles)
    for picture, row in zip(shown, (5, 2), strict=True):
        kind, _, data = picture.uri.partition(",")
        assert kind == "data:image/jpeg;base64"
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
        distance = np.abs(pixels.astype(int) - tiles.astype(int)).mean((1, 2, 3))
        assert distance.argmin() == row
        assert distance[row] < 8  # what JPEG changes, of 255 levels


def test_older_reports_name_none(tiles: np.ndarray) -> None:
    assert pictures({}, tiles) == []
