"""Which image files are tiles. The first bytes of a file say what it is; its suffix only that a folder means it so."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile


class Refused(Exception):
    """An image that is whole, but cannot be a tile: what was found, and what to do. The reader adds its name."""


class ImageBytes(io.BufferedReader):
    """An image file that is read up to its end at most: `read` takes memory for as many bytes as it is asked for.

    Pillow asks for as many as a header declares.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        return super().read(-1 if size is None or size > self._size else size)


@dataclass(frozen=True)
class _Format:
    suffixes: tuple[str, ...]
    start: re.Pattern[bytes]
    reader: type[ImageFile]


_FORMATS = {
    "PNG": _Format((".png",), re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    "JPEG": _Format((".jpg", ".jpeg", ".jpe", ".jfif"), re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    "TIFF": _Format((".tif", ".tiff"), re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    "WebP": _Format((".webp",), re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    "BMP": _Format((".bmp",), re.compile(rb"BM"), BmpImageFile),
    "JPEG 2000": _Format(
        (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
        re.compile(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"),
        Jpeg2KImageFile,
    ),
}
*_first, _last = _FORMATS
KINDS = f"{', '.join(_first)} or {_last}"
SUFFIXES = tuple(suffix for known in _FORMATS.values() for suffix in known.suffixes)
REMEDY = "save it as PNG, or as TIFF with LZW"


def reader_of(file: IO[bytes]) -> type[ImageFile] | None:
    """Return what reads a file, told by its first bytes; None for other content."""
    file.seek(0)
    start = file.read(16)
    file.seek(0)
    return next((known.reader for known in _FORMATS.values() if known.start.match(start)), None)


def open_header(file: IO[bytes]) -> ImageFile:
    """Read the header of an image. Raises Refused for other content, and whatever Pillow raises.

    Readers are called directly: Image.open tries all that Pillow has, and warns about large images.
    """
    if (reader := reader_of(file)) is None:
        raise Refused(f"no {KINDS} image by its content; replace the file, or leave it out")
    if file.read(4) == b"MM\0+":
        raise Refused(f"a BigTIFF of big-endian numbers; {REMEDY}")
    file.seek(0)
    try:
        return reader(file)
    except SyntaxError as error:  # Pillow's for whatever a header lacks
        if isinstance(error.__cause__, KeyError):
            raise Refused(f"its compression or tag {error} is not known; {REMEDY}") from None
        raise


def images_in(image: Image.Image) -> int:
    """Return how many images a file holds: of a TIFF, which is read for it, a hundred at most; of a JPEG, two."""
    if "mpoffset" in image.info:  # a JPEG that says where others are: MPO
        return 2
    if not isinstance(image, TiffImageFile):
        return int(getattr(image, "n_frames", 1))
    for number in range(1, 100):
        try:
            image.seek(number)
        except EOFError:
            image.seek(0)
            return number
    return 100
