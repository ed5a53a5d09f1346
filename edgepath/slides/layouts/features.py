"""What a slide's file holds, whatever its layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...tiles.slides.scale import Scale

_UM_AT_1X = 10.0


@dataclass(frozen=True)
class Features:
    """Embeddings, float32 (N, D), of tiles at `coords`, int64 (N, 2) of x, y in pixels of the slide's finest level.

    `width` and `height` are the slide's, `overlap` is in pixels of a tile, `encoder` names the artifact.
    """

    id: str
    encoder: str
    embeddings: np.ndarray
    coords: np.ndarray
    scale: Scale
    overlap: int
    width: int
    height: int

    @property
    def magnification(self) -> float:
        """What microscopists call the tiles' scale: 20 for 0.5 um per pixel."""
        return rounded(_UM_AT_1X / self.scale.mpp)

    @property
    def slide_magnification(self) -> float:
        """The same of the slide's finest level."""
        return rounded(_UM_AT_1X / self.scale.slide_mpp[0])


def rounded(value: float) -> float:
    """Return a number as an int where it is one but for a few per cent, as 0.499 um is 20x."""
    return round(value) if abs(value / round(max(value, 1)) - 1) < 0.03 else round(value, 3)
