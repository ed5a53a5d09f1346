"""Where on a slide there is tissue: by colour, from a mask image, or from an annotation.

By colour is Otsu's threshold (IEEE Trans. SMC 9, 1979) on saturation at about 8 um a pixel, within bounds: glass is
grey, stains are not. No weights, so nothing to train or license. Left out with glass are black borders, the grey rims
of air bubbles, fat (all but its walls), and pen that is black or in colours no stain has (green, turquoise); blue and
red pen look like stains and stay. What could not be read counts as tissue: its tiles are tried, and those that are bad
are counted, not passed over.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import SlideError, TileError, first_line
from ...machine.packages import require
from .annotation import draw_annotation
from .reader import SlideReader

MASK_MPP = 8.0
MOST_PIXELS = 1 << 24
"""Of a mask: a slide of more than 1,000 mm2 has a coarser one, so that memory does not grow with it."""
_LEAST, _MOST = 10, 20  # of 255 in saturation: Otsu would divide the noise of glass below, pale from dark tissue above
_BLACK = 60  # of 255 in the brightest channel; borders and felt pens, no nuclei at 8 um
_PEN_HUE = (0.22, 0.55)  # yellow-green to cyan, of 1: no stain's
_PEN_SATURATION = 51  # of 255
_SPECK, _HOLE = 5_000, 10_000  # um2, smaller ones are removed, or filled
_BLOCK = 1024  # pixels of a level, in each direction, read at a time
_READERS = 2  # threads
_SMALLEST = 256  # pixels; a block that cannot be read is divided down to this
_MOST_UNREAD = 64  # blocks; a slide with more is not looked at more closely
_STRIP = 256  # rows of the mask that are in floating point at a time
_ASPECT = 0.05  # a mask of sides that differ by more is another slide's


@dataclass(frozen=True)
class Tissue:
    """A mask, bool (h, w), over the whole slide; `step` is how many pixels of the finest level one of its own spans.

    `everywhere` says that all counts as tissue; `unread` how many blocks of it could not be decoded.
    """

    mask: np.ndarray
    step: tuple[float, float]
    everywhere: bool = False
    unread: int = 0

    def shares(self, corners: np.ndarray, width: float, height: float) -> np.ndarray:
        """Return the share of tissue in rectangles with these top left corners, int64 (N, 2): float64 (N,)."""
        # Sums over the mask from its corner, interpolated between its pixels: exact for the parts of a pixel, too.
        sums = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int32)
        np.cumsum(self.mask, axis=0, dtype=np.int32, out=sums[1:, 1:])
        np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
        left, top = corners[:, 0] / self.step[0], corners[:, 1] / self.step[1]
        right, bottom = left + width / self.step[0], top + height / self.step[1]
        inside = _at(sums, bottom, right) - _at(sums, top, right) - _at(sums, bottom, left) + _at(sums, top, left)
        share: np.ndarray = inside / ((right - left) * (bottom - top))
        return share

    def outlines(self) -> list[np.ndarray]:
        """Return the outlines of tissue and of its holes, each float64 (N, 2) of x, y in the finest level's pixels."""
        from skimage.measure import find_contours

        padded = np.pad(self.mask, 1).astype(np.float32)
        lines = find_contours(padded, 0.5)  # type: ignore[no-untyped-call]
        return [(line[:, ::-1] - 0.5) * self.step for line in lines]


def find_tissue(slide: SlideReader, mpp: float, how: str | Path = "otsu") -> Tissue:
    """Return where tissue is; `mpp` is the um per pixel of the finest level.

    `how` is "otsu", "none" (all of the slide), a mask image (white is tissue), or a GeoJSON of QuPath (in pixels of the
    finest level). Raises SlideError for a file that is neither, or is another slide's.
    """
    require("scikit-image", "slides")
    if how == "none":
        return Tissue(np.ones((1, 1), bool), (float(slide.width), float(slide.height)), everywhere=True)
    if how == "otsu":
        pixels, unread, blocks = overview(slide, _step(slide, mpp))
        step = (slide.width / pixels.shape[1], slide.height / pixels.shape[0])
        return Tissue(by_colour(pixels, step[0] * mpp, unread) | unread, step, unread=blocks)
    path = Path(how)
    if path.suffix.lower() in (".geojson", ".json"):
        mask = draw_annotation(path, slide.width, slide.height, _step(slide, mpp))
    else:
        mask = _image(path, slide)
    return Tissue(mask, (slide.width / mask.shape[1], slide.height / mask.shape[0]))


def by_colour(pixels: np.ndarray, mpp: float, unread: np.ndarray) -> np.ndarray:
    """Return where pixels, uint8 (h, w, 3) of `mpp` um, are stained: bool (h, w); `unread` ones say nothing."""
    from scipy.ndimage import median_filter
    from skimage.filters import threshold_otsu

    saturation, ink = _saturation(pixels, unread)
    saturation = median_filter(saturation, size=3)
    seen = saturation[~ink & ~unread]
    otsu = int(threshold_otsu(seen)) if seen.size and np.ptp(seen) else 0  # type: ignore[no-untyped-call]
    threshold = min(max(otsu, _LEAST), _MOST)
    mask = _without_small((saturation > threshold) & ~ink, _SPECK / mpp**2)
    filled: np.ndarray = ~_without_small(~mask, _HOLE / mpp**2) & ~ink
    return filled


def _saturation(pixels: np.ndarray, unread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return saturation, uint8 (h, w), and where there is ink or a black border, bool (h, w); strip by strip."""
    from skimage.color import rgb2hsv

    saturation, ink = np.zeros(unread.shape, np.uint8), np.zeros(unread.shape, bool)
    white = _glass(pixels[::4, ::4][~unread[::4, ::4]]) / np.float32(255)
    for top in range(0, len(pixels), _STRIP):
        rows = slice(top, top + _STRIP)
        hue, pure, value = np.moveaxis(rgb2hsv((pixels[rows] / white).clip(0, 255) / 255), -1, 0) * 255
        saturation[rows] = np.rint(pure)
        pen = (hue > 255 * _PEN_HUE[0]) & (hue < 255 * _PEN_HUE[1]) & (pure > _PEN_SATURATION)
        ink[rows] = pen | (value < _BLACK)
    return saturation, ink


def _glass(pixels: np.ndarray) -> np.ndarray:
    """Return the colour of glass, float32 (3,): lamps and mounting media tint it. White where there is too little."""
    low, high = pixels.min(1), pixels.max(1)
    pale = pixels[(low > 190) & (high - low < 45)]
    return np.median(pale, axis=0).astype(np.float32) if len(pale) > 0.02 * len(pixels) else np.full(3, 255, np.float32)


def _without_small(mask: np.ndarray, least: float) -> np.ndarray:
    """Return a mask without its pieces of fewer than `least` pixels."""
    from scipy.ndimage import label

    pieces, _ = label(mask)
    kept = np.bincount(pieces.ravel()) >= least
    kept[0] = False
    large: np.ndarray = kept[pieces]
    return large


def _step(slide: SlideReader, mpp: float) -> float:
    """Return how many of the finest pixels one of a mask's spans."""
    return max(1.0, MASK_MPP / mpp, math.sqrt(slide.width * slide.height / MOST_PIXELS))


def overview(slide: SlideReader, step: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the slide small, uint8 (h, w, 3), where it could not be read, bool (h, w), and in how many blocks.

    A pixel spans about `step` of the finest level's, and no more.

    Read in blocks, by two threads: a slide with one level of 40,000 pixels is never in memory at once. A block that
    cannot be read is divided, so that one bad tile of the file hides little.
    """
    levels = slide.metadata.levels
    level = max(
        (i for i, candidate in enumerate(levels) if candidate.downsample <= step), key=lambda i: levels[i].downsample
    )
    here = levels[level]
    factor = max(1, int(step / here.downsample), math.ceil(math.sqrt(here.width * here.height / MOST_PIXELS)))
    shape = (-(-here.height // factor), -(-here.width // factor))
    pixels, unread, blocks = np.full((*shape, 3), 255, np.uint8), np.zeros(shape, bool), 0
    side = max(1, _BLOCK // factor) * factor
    todo = [(top, left, side) for top in range(0, here.height, side) for left in range(0, here.width, side)][::-1]

    def read(top: int, left: int, side: int) -> np.ndarray | None:
        """Return a block made small, None where it cannot be read."""
        corner = (round(left * here.downsample), round(top * here.downsample))
        try:
            block = slide.read(*corner, level, min(side, here.width - left), min(side, here.height - top))
        except TileError:
            return None
        return np.asarray(Image.fromarray(block).reduce(factor))

    pool = ThreadPoolExecutor(_READERS, thread_name_prefix="edgepath-overview")
    try:
        ahead = {block: pool.submit(read, *block) for block in reversed(todo)}
        while todo:
            top, left, side = block = todo.pop()
            small = ahead.pop(block).result() if block in ahead else read(*block)
            row, column, cells = top // factor, left // factor, side // factor
            where = (slice(row, row + cells), slice(column, column + cells))
            if small is not None:
                pixels[where] = small
            elif side // 2 < max(_SMALLEST, factor) or blocks >= _MOST_UNREAD:
                unread[where] = True
                blocks += 1
            else:
                half = -(-cells // 2) * factor
                quarters = [(top + y, left + x, half) for y in (0, half) for x in (0, half)]
                todo += [quarter for quarter in quarters if quarter[0] < here.height and quarter[1] < here.width]
    finally:
        pool.shutdown(cancel_futures=True)
    return pixels, unread, blocks


def _image(path: Path, slide: SlideReader) -> np.ndarray:
    """Return where a mask image is white, bool (h, w); also where it holds one label, and 0 elsewhere."""
    try:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"))
    except Exception as error:  # on damaged files Pillow's decoders raise nearly every type there is
        raise SlideError(f"tissue {path}: no mask image and no GeoJSON ({first_line(error)})") from None
    if abs(grey.shape[1] / grey.shape[0] * slide.height / slide.width - 1) > _ASPECT:
        sides = f"{grey.shape[1]} x {grey.shape[0]} pixels, the slide {slide.width} x {slide.height}"
        raise SlideError(f"tissue {path}: a mask of {sides}: not of one shape; give the mask of {slide.path.name}")
    most = int(grey.max())
    if most < 255 and not np.isin(grey, (0, most)).all():
        raise SlideError(f"tissue {path}: a mask of grey levels up to {most}; give black, and white where tissue is")
    return grey > most // 2


def _at(sums: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return `sums` between its points, linear in both directions."""
    rows, columns = rows.clip(0, sums.shape[0] - 1), columns.clip(0, sums.shape[1] - 1)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = np.minimum(top + 1, sums.shape[0] - 1), np.minimum(left + 1, sums.shape[1] - 1)
    y, x = rows - top, columns - left
    above = sums[top, left] * (1 - x) + sums[top, right] * x
    below = sums[down, left] * (1 - x) + sums[down, right] * x
    between: np.ndarray = above * (1 - y) + below * y
    return between
