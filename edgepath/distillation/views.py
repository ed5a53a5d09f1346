"""A tile -> global and local crops, each turned, restained, rescanned and blurred within what tissue looks like.

No hue rotation, no solarisation, no grey: recipes for photographs make colours that no slide has. Every draw comes from
the generator that is passed in, so a seed fixes a view to the byte.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..tiles.stains import stain_vectors
from ..tiles.synthetic.looks import colour_matrix
from .options import Colours, Views

F32: TypeAlias = NDArray[np.float32]
U8: TypeAlias = NDArray[np.uint8]
Generator: TypeAlias = np.random.Generator

# A level of 0 stands for the darkest that can be told apart from it, as in scikit-image's rgb2hed.
_DENSITY = -np.log(np.maximum(np.arange(256), 0.5).astype(np.float32) / 255)


def make_views(tile: U8, size: int, options: Views, rng: Generator) -> tuple[U8, U8]:
    """Return global crops (G, size, size, 3) and local crops (L, local_size, local_size, 3) of a tile, uint8."""
    large = [_view(tile, size, options.global_scale, options, rng) for _ in range(options.global_count)]
    small = [_view(tile, options.local_size, options.local_scale, options, rng) for _ in range(options.local_count)]
    empty = np.empty((0, options.local_size, options.local_size, 3), np.uint8)
    return np.stack(large), np.stack(small) if small else empty


def _view(tile: U8, size: int, scale: tuple[float, ...], options: Views, rng: Generator) -> U8:
    view = turn(crop(tile, size, scale, rng), rng)
    view = recolour(view, options, rng)
    return blur(view, options, rng)


def crop(tile: U8, size: int, scale: tuple[float, ...], rng: Generator) -> U8:
    """Cut a square of a share of the tile's area at a random place, and resize it, bicubic and antialiased.

    The square keeps its aspect, which DINOv2 does not: whether a nucleus is round or a spindle is a finding.
    """
    tile_side = tile.shape[0]
    side = tile_side * float(np.sqrt(rng.uniform(scale[0], scale[1])))
    left, top = rng.uniform(0, tile_side - side, 2)
    box = (left, top, min(left + side, tile_side), min(top + side, tile_side))
    return np.array(Image.fromarray(tile).resize((size, size), Image.Resampling.BICUBIC, box=box))


def turn(view: U8, rng: Generator) -> U8:
    """Turn by a multiple of 90 degrees and mirror or not: tissue has no upright, and no pixel is interpolated."""
    quarter, mirror = int(rng.integers(4)), bool(rng.integers(2))
    turned = np.rot90(view, quarter)
    return np.ascontiguousarray(turned[:, ::-1] if mirror else turned)


def recolour(view: U8, options: Colours, rng: Generator) -> U8:
    """Stain anew in optical density, then scan anew in light."""
    density = restain(_DENSITY[view], options.stain_strength, options.stain_hue, rng)
    light = rescan(np.exp(-density), options.scanner, rng)
    return (np.clip(light, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def restain(density: F32, strength: float, hue: float, rng: Generator) -> F32:
    """Change how much haematoxylin and eosin took, and which of their dyes, in optical density (..., 3).

    Each pixel is a mixture of haematoxylin, eosin and a rest (Ruifrok & Johnston 2001). Each stain's amount changes by
    up to `strength`; its vector moves up to `hue` of the way between the two published ones (Ruifrok's and Macenko's)
    from their middle; the rest stays. A mixture of the two stains stays one, and glass stays glass.
    """
    amounts = rng.uniform(1 - strength, 1 + strength, 2)
    hues = rng.uniform(0.5 - hue / 2, 0.5 + hue / 2, 2)
    middle = stain_vectors(0.5, 0.5)
    drawn = stain_vectors(*hues)
    drawn[:2] *= amounts[:, None]
    change = (np.linalg.inv(middle) @ drawn).astype(np.float32)
    restained: F32 = density @ change
    return restained


def rescan(light: F32, amount: float, rng: Generator) -> F32:
    """Change light (..., 3) in 0..1 as another scanner would: colour matrix, tone curve, white point.

    `amount` = 1 spans what the scanners of `tiles.synthetic.looks` span. The matrix's rows sum to 1, so grey stays grey
    until the white point tints it; black stays black.
    """
    saturation = 1 + amount * rng.uniform(-0.12, 0.16)
    to_red, to_blue = amount * rng.uniform(-0.1, 0.14, 2)
    gamma = float(np.exp(amount * rng.uniform(-0.18, 0.18)))
    white = 1 - amount * rng.uniform(0.0, 0.1) - amount * rng.uniform(0.0, 0.03, 3)
    matrix = np.array(colour_matrix(saturation, to_red, to_blue), np.float32)
    mixed = np.clip(light @ matrix.T, 0, 1)
    scanned: F32 = mixed ** np.float32(gamma) * white.astype(np.float32)
    return scanned


def blur(view: U8, options: Colours, rng: Generator) -> U8:
    """Blur some views with a Gaussian, as a scanner that missed the focus does."""
    chosen, radius = (
        rng.random() < options.blur_probability,
        rng.uniform(options.blur_pixels[0], options.blur_pixels[1]),
    )
    return np.array(Image.fromarray(view).filter(ImageFilter.GaussianBlur(radius))) if chosen else view
