"""The tiles that drifted most, as pictures in the page itself."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...checks.results import Report

QUALITY = 85  # of JPEG, for looking at; what was measured are the pixels in golden/tiles.npz


@dataclass(frozen=True)
class Picture:
    """A tile for the eye: its name, the cosine of its two embeddings, and the picture as a data URI."""

    tile: str
    cosine: float
    uri: str


def pictures(report: Report, golden: np.ndarray) -> list[Picture]:
    """Return the golden tiles, uint8 (N, S, S, 3), that a report names as the farthest, farthest first."""
    worst = report["worst"]["tiles"] if "worst" in report else []  # older bundles do not name them
    return [Picture(tile["tile"], tile["cosine"], _uri(golden[tile["golden"]])) for tile in worst]


def _uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
