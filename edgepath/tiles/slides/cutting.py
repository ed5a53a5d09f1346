"""A slide and how to cut it -> tiles, at any place, from any thread."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...machine.memory import keep_freed_memory
from .grid import make_grid
from .reader import SlideReader, open_slide
from .scale import Scale, find_scale
from .tissue import Tissue, find_tissue


@dataclass(frozen=True)
class CutSettings:
    """How slides are cut: tiles of `size` pixels of `mpp` um, `overlap` pixels shared, with `tissue_share` of tissue.

    `tissue` is "otsu", "none", a mask image or a GeoJSON. `mpp_of_slide` and `mpp_key` say where a slide's own scale
    comes from (`scale.find_scale`).
    """

    size: int = 224
    mpp: float = 0.5
    overlap: int = 0
    tissue: str = "otsu"
    tissue_share: float = 0.1
    mpp_of_slide: float | None = None
    mpp_key: str | None = None
    allow_upsampling: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        return asdict(self)


class CutSlide:
    """An open slide with the places of its tiles: `coords`, int64 (N, 2) of x, y in pixels of the finest level."""

    def __init__(self, slide: SlideReader, scale: Scale, tissue: Tissue, coords: np.ndarray) -> None:
        self.slide, self.scale, self.tissue, self.coords = slide, scale, tissue, coords

    def __len__(self) -> int:
        return len(self.coords)

    def tile(self, index: int) -> np.ndarray:
        """Return a tile, uint8 (S, S, 3), read from its level and resampled once.

        Raises TileError where it cannot be decoded. May be called from several threads.
        """
        x, y = self.coords[index].tolist()
        return read_tile(self.slide, self.scale, x, y)

    def __enter__(self) -> CutSlide:
        return self

    def __exit__(self, *error: object) -> None:
        self.slide.__exit__(*error)


def cut(path: str | Path, settings: CutSettings) -> CutSlide:
    """Open a slide and find its tiles. Raises what `open_slide` and `cut_open` raise."""
    slide = open_slide(path)
    try:
        return cut_open(slide, settings)
    except BaseException:
        slide.__exit__()
        raise


def cut_open(slide: SlideReader, settings: CutSettings) -> CutSlide:
    """Find an open slide's tiles. Raises what `find_scale`, `find_tissue` and `make_grid` raise."""
    keep_freed_memory()
    scale = find_scale(
        slide.metadata,
        slide.path.name,
        size=settings.size,
        mpp=settings.mpp,
        mpp_of_slide=settings.mpp_of_slide,
        mpp_key=settings.mpp_key,
        allow_upsampling=settings.allow_upsampling,
    )
    if settings.tissue == "otsu":
        slide.keep()
    tissue = find_tissue(slide, scale.slide_mpp[0], settings.tissue)
    coords = make_grid(
        slide.width, slide.height, scale, tissue, overlap=settings.overlap, tissue_share=settings.tissue_share
    )
    return CutSlide(slide, scale, tissue, coords)


def read_tile(slide: SlideReader, scale: Scale, x: int, y: int) -> np.ndarray:
    """Return the tile at (x, y), uint8 (S, S, 3), read from its level and resampled once."""
    down = scale.downsample
    left, top = int(x / down), int(y / down)
    corner = (round(left * down), round(top * down))  # a pixel of the level begins here
    offset = ((x - corner[0]) / down, (y - corner[1]) / down)
    sides = (scale.width / down, scale.height / down)
    if scale.resampling == "none" and offset == (0.0, 0.0):
        return slide.read(*corner, scale.level, scale.size, scale.size)
    width, height = (int(np.ceil(start + side - 1e-9)) for start, side in zip(offset, sides, strict=True))
    # A level has whole pixels, so its last one may lack a part of what the finest level has there: glass is no pixel.
    level = slide.metadata.levels[scale.level]
    inside = (min(width, max(1, level.width - left)), min(height, max(1, level.height - top)))
    pixels = slide.read(*corner, scale.level, *inside)
    if inside != (width, height):
        pixels = np.pad(pixels, ((0, height - inside[1]), (0, width - inside[0]), (0, 0)), mode="edge")
    tile: np.ndarray = np.rint(_means(pixels, offset, sides, scale.size)).astype(np.uint8)
    return tile


def _means(pixels: np.ndarray, offset: tuple[float, float], sides: tuple[float, float], size: int) -> np.ndarray:
    """Return float64 (size, size, 3): means of pixels (h, w, 3) over a tile's parts; x before y in the pairs."""
    height, width, channels = pixels.shape
    flat = np.ascontiguousarray(pixels).reshape(height, width * channels).astype(np.float64)
    rows = _shares(height, offset[1], sides[1], size) @ flat
    means: np.ndarray = rows @ _shares(width, offset[0], sides[0], size, channels).T
    return means.reshape(size, size, channels)


@lru_cache(1024)  # one for each column of a slide's tiles, 40 KB each: fewer would be made anew in every row
def _shares(count: int, start: float, side: float, size: int, channels: int = 1) -> Any:
    """Return the area filter along one axis: how much of each pixel is in each part of a tile, sparse (size, count).

    With `channels`, those of a pixel lie side by side: sparse (size * channels, count * channels).

    The tile begins `start` pixels in and spans `side` of them; rows sum to 1, to a few 2**-20. Smaller parts than a
    pixel (upsampling) take what they lie in. Shares are multiples of 2**-20: two of them times a pixel add up without
    rounding, so a tile is the same to the bit whatever the order of its sums, that is on every machine and with any
    number of threads.
    """
    from scipy.sparse import csr_array

    edges = start + np.arange(size + 1) * (side / size)
    first = np.floor(edges[:-1]).astype(np.int32)
    pixels = first[:, None] + np.arange((np.ceil(edges[1:]).astype(np.int32) - first).max(), dtype=np.int32)
    shares = (np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)).clip(0)
    shares = np.rint(shares / shares.sum(1, keepdims=True) * 2**20) / 2**20
    where = pixels.clip(0, count - 1)  # beyond lie shares of 0
    channel = np.arange(channels, dtype=np.int32)[:, None]
    columns = (where[:, None] * channels + channel).ravel()
    ends = np.arange(size * channels + 1) * pixels.shape[1]
    return csr_array(
        (np.repeat(shares, channels, axis=0).ravel(), columns, ends), shape=(size * channels, count * channels)
    )
