"""One image file -> one tile, uint8 RGB; and what a tile looks like, in a few numbers.

What an image file may hold, and what becomes of it (embeddings are of RGB as a slide reader hands it out):

    8-bit RGB; palette; YCbCr TIFF     converted; the colours are fully defined
    16-bit RGB (PNG, TIFF)             the high byte of each sample; images that use only the low bits come out dark
    alpha, or a transparent colour     laid over white, as glass is
    EXIF or TIFF orientation           honoured, as every viewer does
    an embedded colour profile, gamma  not applied: slide readers do not, and models were trained without
    greyscale, 1-bit, 16-bit grey      refused: a mask, a depth or a fluorescence channel, not a stained tile
    CMYK, Lab, HSV, float              refused: their RGB depends on a profile or a scale that has to be chosen
    several images in one file         refused: which of them is the tile cannot be known
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ..errors import TileError, UsageError, did_you_mean

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
RESIZES = ("refuse", "squash", "crop")
LARGEST = 8192 * 8192  # pixels decoded to make one tile: 200 MB a thread

_CONVERTED = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "YCbCr")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_GLASS, _PALE, _PALE_CHROMA, _BLACK = 200, 160, 20, 30  # 8-bit levels


def check_resize(resize: str) -> None:
    """Raise UsageError unless `resize` is one of RESIZES."""
    if resize not in RESIZES:
        raise UsageError(f'resize "{resize}"; {did_you_mean(resize, RESIZES)}')


def read_image(path: str | Path, size: int = 224, resize: str = "refuse") -> np.ndarray:
    """Decode a PNG, JPEG or TIFF file to uint8 (size, size, 3), told by its content and not by its name.

    An image of another size is refused from its header, or with `resize` squashed to a square, or resized on its short
    side and cropped to the centre (both bicubic, antialiased). Raises TileError naming the file and what to do.
    """
    try:
        if Path(path).exists() and not Path(path).is_file():  # opening a named pipe would wait for ever
            raise TileError(f"{path}: not a regular file; leave it out")
        with open(path, "rb") as file:
            return np.array(_fit(_to_rgb(_load(file, size, resize)), size, resize))
    except _Refused as refused:
        raise TileError(f"{path}: {refused}") from None
    except (TileError, MemoryError):
        raise
    except Exception as error:  # on damaged files Pillow's decoders raise nearly every type there is
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise TileError(f"{path}: cannot be read ({reason}); replace the file, or leave it out") from error


def tile_sha256(pixels: np.ndarray) -> str:
    """Return the sha256 of a tile's bytes, uint8 (S, S, 3): one tile has one hash, as PNG or as TIFF."""
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()


def resize_tile(pixels: np.ndarray, size: int, resize: str) -> np.ndarray:
    """Return a decoded square tile at another size, as `read_image` would; `resize` is "squash" or "crop"."""
    return np.array(_fit(Image.fromarray(pixels), size, resize))


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


class _Refused(Exception):
    """An image that is whole, but not a tile; the reader adds the file's name."""


def _load(file: BinaryIO, size: int, resize: str) -> Image.Image:
    """Decode, after the header was found good. Plugins are called directly: Image.open warns about large images."""
    image = _plugin(file)(file)
    _check_header(image, size, resize)
    if isinstance(image, PngImageFile):
        image.verify()  # every chunk's checksum: decoding alone does not miss a cut-off end
        image = _plugin(file)(file)
    image.load()
    return image


def _plugin(file: BinaryIO) -> type[ImageFile.ImageFile]:
    file.seek(0)
    start = file.read(8)
    file.seek(0)
    if start == b"\x89PNG\r\n\x1a\n":
        return PngImageFile
    if start[:3] == b"\xff\xd8\xff":
        return JpegImageFile
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return TiffImageFile
    raise _Refused("no PNG, JPEG or TIFF image by its content; replace the file, or leave it out")


def _check_header(image: ImageFile.ImageFile, size: int, resize: str) -> None:
    width, height = image.size
    if (count := getattr(image, "n_frames", 1)) > 1:
        raise _Refused(f"holds {count} images; save the one that is the tile")
    if image.size != (size, size) and (resize == "refuse" or width * height > LARGEST):
        ways = "" if width * height > LARGEST else ", or choose --resize crop or --resize squash"
        raise _Refused(f"{width} x {height} pixels, {size} x {size} are needed; cut tiles of that size{ways}")
    if image.mode in _GREY:
        raise _Refused(f"greyscale (Pillow mode {image.mode}), a stained RGB tile is needed; save it as 8-bit RGB")
    if image.mode not in _CONVERTED:
        raise _Refused(f"{image.mode} colours, RGB is needed; convert the file to 8-bit sRGB with its colour profile")


def _to_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    glass = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(glass, upright.convert("RGBA")).convert("RGB")


def _fit(image: Image.Image, size: int, resize: str) -> Image.Image:
    if image.size == (size, size):
        return image
    if resize == "crop":
        return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return image.resize((size, size), Image.Resampling.BICUBIC)


def _change(grey: np.ndarray, step: int) -> float:
    return float(np.abs(grey[step:] - grey[:-step]).mean())
