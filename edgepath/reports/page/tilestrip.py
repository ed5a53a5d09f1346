"""The tiles that drifted most, as pictures in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .elements import escape, figure

QUALITY = 85  # of JPEG, for looking at; what was measured are the pixels in golden/tiles.npz


@dataclass(frozen=True)
class Picture:
    """A tile for the eye: its name, the cosine of its two embeddings, and the picture as a data URI."""

    tile: str
    cosine: float
    uri: str


def pictures(report: Mapping[str, Any], golden: np.ndarray) -> list[Picture]:
    """Return the golden tiles, uint8 (N, S, S, 3), that a report names as the farthest, farthest first."""
    worst = report.get("worst") or {"tiles": []}  # older bundles do not name them
    return [Picture(one["tile"], one["cosine"], _uri(golden[one["golden"]])) for one in worst["tiles"]]


def draw_strip(shown: Sequence[Picture], of: str, tiles: int) -> str:
    """Return the pictures side by side, with what they are of: the `of` drift (`total`) of so many golden tiles."""
    if not shown:
        return ""
    cells = "".join(
        f'<li><img src="{one.uri}" alt=""><b>{one.cosine:.6f}</b><span>{escape(one.tile)}</span></li>\n'
        for one in shown
    )
    said = (
        f"The {len(shown)} of {tiles} golden tiles with the smallest cosine ({of} drift), worst first. Look for what "
        "they share: pen, folds, blood, glass, blur."
    )
    return figure(f'<ul class="strip">\n{cells}</ul>\n', said)


def _uri(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
