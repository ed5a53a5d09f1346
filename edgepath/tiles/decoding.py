"""An image file decoded strictly: what is cut off or damaged is an error, as far as its format lets one see.

PNG                                    checksums of every part: all damage is seen
JPEG                                   the decoder's warnings are errors; see `jpeg` for what nobody can see
TIFF                                   every part is there, and fits its checksum, or decodes strictly; see `tiff`
WebP, JPEG 2000                        a missing end is seen; of other damage, what their decoders refuse
BMP; TIFF as it is, PackBits, Zstandard   a missing end is seen, and nothing else
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TypeVar

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from .formats import open_header
from .inflating import check_png
from .jpeg import decode_jpeg
from .jpeg2000 import check_jpeg2000
from .tiff import check_tiff

_T = TypeVar("_T")
LARGEST = 4096 * 4096
"""Pixels that are decoded to make one tile, at most; `bounded` says what they cost."""
LONGEST = 16384
"""Pixels of a side, at most: Pillow holds a pointer for every row."""
_MANY = 1024 * 1024
_one_at_a_time = threading.Lock()


def bounded(image: Image.Image, work: Callable[[], _T]) -> _T:
    """Return what `work` on an image returns; of images of more than a million pixels, do one at a time.

    Pixels, and copies that are turned, laid over white or resized take up to 12 bytes for each, file and decoder the
    rest: 0.5 GB for the largest, however many threads ask. These are worked on in a thread of their own: what is freed
    in a thread is kept for that thread.
    """
    if image.width * image.height <= _MANY:
        return work()
    with _one_at_a_time, ThreadPoolExecutor(1) as alone:
        return alone.submit(work).result()


def decode(image: ImageFile, file: IO[bytes]) -> Image.Image:
    """Decode the rest of a file whose header was read by `open_header`.

    Raises Refused for a layout that is not read, and of damaged files whatever there is.
    """
    if isinstance(image, JpegImageFile):
        file.seek(0)
        decoded = Image.fromarray(decode_jpeg(file.read()))
        decoded.info = image.info  # its orientation stands there
        return decoded
    if isinstance(image, Jpeg2KImageFile):
        file.seek(0)
        check_jpeg2000(image.mode, file.read())
    if isinstance(image, TiffImageFile):
        check_tiff(image, file)
    if isinstance(image, PngImageFile):
        image.verify()  # every checksum: decoding alone does not miss a cut-off end
        check_png(file)
        image = open_header(file)
    image.load()
    _check_palette(image)
    return image


def _check_palette(image: ImageFile) -> None:
    """Raise ValueError for pixels of colours that a palette does not have: Pillow makes them black."""
    if image.mode == "P" and image.palette is not None:
        highest, known = int(np.asarray(image).max()), len(image.palette.palette) // len(image.palette.mode)
        if highest >= known:
            raise ValueError(f"its pixels name colour {highest} of a palette of {known}")
