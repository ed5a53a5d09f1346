"""One image file -> one tile, uint8 RGB; and what a tile looks like, in a few numbers.

What an image file may hold, and what becomes of it (embeddings are of RGB as a slide reader hands it out):

    8-bit RGB; palette; YCbCr          converted; the colours are fully defined
    16-bit RGB                         the high byte of each sample; images that use only the low bits come out dark
    alpha, or a transparent colour     laid over white, as glass is
    EXIF or TIFF orientation           honoured, as every viewer does
    an embedded colour profile, gamma  not applied: slide readers do not, and models were trained without
    greyscale, 1-bit, 16-bit grey      refused: a mask, a depth or a fluorescence channel, not a stained tile
    CMYK, Lab, HSV, float              refused: their RGB depends on a profile or a scale that has to be chosen
    several images in one file         refused: which of them is the tile cannot be known

The same holds for images that a data set opened with Pillow (`pixels_of`), as far as it did not convert them before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.ImageFile import ImageFile

from ..errors import TileError, UsageError, did_you_mean, first_line
from .decoding import LARGEST, LONGEST, bounded, decode
from .formats import ImageBytes, Refused, images_in, open_header

RESIZES = ("refuse", "squash", "crop")

_CONVERTED = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "YCbCr")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_GLASS, _PALE, _PALE_CHROMA, _BLACK = 200, 160, 20, 30  # 8-bit levels
_BAND = 256  # rows laid over white at once: copies of a whole image would take memory several times


def check_resize(resize: str) -> None:
    """Raise UsageError unless `resize` is one of RESIZES."""
    if resize not in RESIZES:
        raise UsageError(f'resize "{resize}"; {did_you_mean(resize, RESIZES)}')


def read_image(path: str | Path, size: int = 224, resize: str = "refuse") -> np.ndarray:
    """Decode an image file to uint8 (size, size, 3); what kinds there are is told by its content, not by its name.

    An image of another size is refused from its header, or with `resize` squashed to a square, or resized on its short
    side and cropped to the centre (both bicubic, antialiased). Raises TileError naming the file and what to do.
    """
    with _naming(path):
        if Path(path).exists() and not Path(path).is_file():  # opening a named pipe would wait for ever
            raise Refused("not a regular file; leave it out")
        with ImageBytes(path) as file:
            return _read(file, size, resize)


def pixels_of(image: Image.Image, size: int, resize: str) -> np.ndarray:
    """Return an image that someone opened with Pillow as `read_image` returns a file: uint8 (size, size, 3).

    One that is not decoded yet is read from its file, with all checks; one that is has passed Pillow's alone. Raises
    TileError.
    """
    with _naming(getattr(image, "filename", "") or "an image"):
        if isinstance(image, ImageFile) and image.tile and image.fp is not None:
            return _read(image.fp, size, resize)
        _check_header(image, size, resize)
        return _fit(image, size, resize)


def _read(file: IO[bytes], size: int, resize: str) -> np.ndarray:
    image = open_header(file)
    _check_header(image, size, resize)
    return bounded(image, lambda: _fit(decode(image, file), size, resize))


@contextmanager
def _naming(name: str | Path) -> Iterator[None]:
    """Turn every error while an image is read into a TileError with its name."""
    try:
        yield
    except Refused as refused:
        raise TileError(f"{name}: {refused}") from None
    except MemoryError:
        raise
    except Exception as error:  # on damaged files decoders raise nearly every type there is
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise TileError(f"{name}: cannot be read ({reason}); replace the file, or leave it out") from error


def tile_sha256(pixels: np.ndarray) -> str:
    """Return the sha256 of a tile's bytes, uint8 (S, S, 3): one tile has one hash, as PNG or as TIFF."""
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def resize_tile(pixels: np.ndarray, size: int, resize: str) -> np.ndarray:
    """Return a decoded tile at another size, as `read_image` would; `resize` is "squash" or "crop"."""
    return np.array(_resized(Image.fromarray(pixels), size, resize))


def describe(pixels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return how much of a tile, uint8 (S, S, 3), is tissue (0..1), and its colour and texture, float32 (11,).

    Tissue is what is neither glass (bright, or pale and grey) nor black padding, in means of 4 x 4 pixels. Pen is not
    told apart: by colour alone, marks cannot be separated from blue-balanced haematoxylin. The descriptor holds mean
    and spread of the optical density of R, G, B, then the mean change of level over 1 pixel along rows (R, G, B
    together) and of density over 4, 8, 16 and 32 pixels along rows and columns.
    """
    side = pixels.shape[0] // 4
    small = pixels[: side * 4, : side * 4].reshape(side, 4, side, 4, 3).mean((1, 3), dtype=np.float32)
    low, high = small.min(2), small.max(2)
    empty = (low > _GLASS) | ((low > _PALE) & (high - low < _PALE_CHROMA)) | (high < _BLACK)
    density = -np.log10((small + 1) / 256)
    grey = density.mean(2)
    fine = np.abs(np.diff(pixels.astype(np.int16), axis=1)).mean() / 255
    coarse = [(_change(grey, step) + _change(grey.T, step)) / 2 for step in (1, 2, 4, 8)]
    descriptor = np.array([*density.mean((0, 1)), *density.std((0, 1)), fine, *coarse], np.float32)
    return float(1 - empty.mean()), descriptor


def _check_header(image: Image.Image, size: int, resize: str) -> None:
    width, height = image.size
    if (count := images_in(image)) > 1:
        raise Refused(f"holds {count} images; save the one that is the tile")
    large = width * height > LARGEST or max(width, height) > LONGEST
    if image.size != (size, size) and (resize == "refuse" or large):
        ways = "" if large else ", or choose --resize crop or --resize squash"
        raise Refused(f"{width} x {height} pixels, {size} x {size} are needed; cut tiles of that size{ways}")
    if image.mode in _GREY:
        raise Refused(f"greyscale (Pillow mode {image.mode}), a stained RGB tile is needed; save it as 8-bit RGB")
    if image.mode not in _CONVERTED:
        raise Refused(f"{image.mode} colours, RGB is needed; convert the file to 8-bit sRGB with its colour profile")


def _fit(image: Image.Image, size: int, resize: str) -> np.ndarray:
    """Return a decoded image upright, in RGB and of the right size."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = (ImageOps.exif_transpose(image) if turned else None) or image
    rgb = _over_white(upright) if upright.has_transparency_data else upright.convert("RGB")
    return np.array(rgb if rgb.size == (size, size) else _resized(rgb, size, resize))


def _over_white(image: Image.Image) -> Image.Image:
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, _BAND):
        band = image.crop((0, top, image.width, min(top + _BAND, image.height))).convert("RGBA")
        glass = Image.new("RGBA", band.size, "white")
        result.paste(Image.alpha_composite(glass, band).convert("RGB"), (0, top))
    return result


def _resized(image: Image.Image, size: int, resize: str) -> Image.Image:
    if resize == "crop":
        return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _change(grey: np.ndarray, step: int) -> float:
    return float(np.abs(grey[step:] - grey[:-step]).mean())
