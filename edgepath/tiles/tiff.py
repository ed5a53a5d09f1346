"""What Pillow and libtiff pass over in a TIFF: layouts they decode to other pixels, and damage that they do not report.

The layouts that are read were compared with tifffile, all of them (tests/tiles/test_tiff.py). Each strip or tile of the
image has to lie in the file, whole; deflated ones have to fit their checksum, and JPEGs are decoded strictly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from PIL.TiffImagePlugin import TiffImageFile

from .formats import REMEDY, Refused
from .inflating import inflated
from .jpeg import check_jpeg

_RAW, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE, _PACKBITS, _ZSTD = 1, 5, 7, 8, 32946, 32773, 50000
_COMPRESSIONS = (_RAW, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE, _PACKBITS, _ZSTD)
_WITH_PREDICTOR = (_LZW, _DEFLATE, _OLD_DEFLATE, _ZSTD)
_PALETTE, _YCBCR = 3, 6
_SEVERAL_PLANES = 2


@dataclass(frozen=True)
class _Layout:
    """How an image lies in its file, in the words of TIFF 6.0; `samples` is of a pixel, `bits` of a sample."""

    width: int
    height: int
    bits: int
    samples: int
    compression: int
    predictor: int
    planar: int
    photometric: int


def check_tiff(image: TiffImageFile, file: IO[bytes]) -> None:
    """Raise Refused for a layout that is not read, ValueError for damage; only the header was read before."""
    layout = _layout(image)
    size = file.seek(0, 2)
    tables = bytes(image.tag_v2.get(347, b""))
    for offset, length, height, width in _parts(image, layout):
        if offset <= 0 or length <= 0 or offset + length > size:
            raise ValueError(f"a part of the image is not in the file: {length} bytes at {offset} of {size}")
        if layout.compression in (_LZW, _PACKBITS, _ZSTD):
            continue  # libtiff reports what does not decode to the right length
        file.seek(offset)
        _check_part(file.read(length), layout, height, width, tables)
    file.seek(0)


def _layout(image: TiffImageFile) -> _Layout:
    tags = image.tag_v2
    bits = tags.get(258, (1,))
    layout = _Layout(
        width=tags[256],
        height=tags[257],
        bits=bits[0],
        samples=tags.get(277, 1),
        compression=tags.get(259, 1),
        predictor=tags.get(317, 1),
        planar=tags.get(284, 1),
        photometric=tags.get(262, 0),
    )
    extra = tags.get(338, ())
    colours = 1 if layout.photometric == _PALETTE else 3
    if layout.compression not in _COMPRESSIONS:
        raise Refused(f"TIFF compression {layout.compression}; {REMEDY}")
    if layout.predictor != 1 and (layout.predictor, layout.compression in _WITH_PREDICTOR) != (2, True):
        raise Refused(f"TIFF predictor {layout.predictor} with compression {layout.compression}; {REMEDY}")
    if set(bits) - {8, 16} or len(set(bits)) > 1 or tags.get(266, 1) != 1 or set(tags.get(339, (1,))) != {1}:
        raise Refused(f"TIFF samples of {', '.join(map(str, bits))} bits, or not whole numbers; {REMEDY}")
    if layout.samples != colours + len(extra) or len(extra) > 1:
        raise Refused(f"TIFF with {layout.samples} samples a pixel, of which {len(extra)} are said to be no colour")
    if layout.planar == _SEVERAL_PLANES and layout.compression == _RAW and (layout.bits > 8 or extra):
        raise Refused(
            f"uncompressed TIFF with a plane for each of {layout.samples} colours of {bits[0]} bits; {REMEDY}"
        )
    if layout.photometric == _YCBCR and layout.compression != _JPEG and tags.get(530, (2, 2)) != (1, 1):
        raise Refused(f"TIFF with colours of a lower resolution that is no JPEG; {REMEDY}")
    return layout


def _parts(image: TiffImageFile, layout: _Layout) -> Iterator[tuple[int, int, int, int]]:
    """Yield where each strip or tile lies (offset, length), and how many rows and columns of the image it holds."""
    tags = image.tag_v2
    tiled = 324 in tags
    if tiled == (273 in tags):
        raise ValueError("strips and tiles at once, or none of them")
    offsets, lengths = (tags.get(tag, ()) for tag in ((324, 325) if tiled else (273, 279)))
    width, rows = (tags[322], tags[323]) if tiled else (layout.width, min(tags.get(278, layout.height), layout.height))
    if width <= 0 or rows <= 0:
        raise ValueError(f"parts of {width} x {rows} pixels")
    across, down = -(-layout.width // width), -(-layout.height // rows)
    planes = layout.samples if layout.planar == _SEVERAL_PLANES else 1
    if not len(offsets) == len(lengths) == across * down * planes:
        raise ValueError(f"{len(offsets)} parts with {len(lengths)} lengths, {across * down * planes} make the image")
    for number, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        first = number // across % down * rows
        yield offset, length, rows if tiled else min(rows, layout.height - first), width


def _check_part(data: bytes, layout: _Layout, height: int, width: int, tables: bytes) -> None:
    if layout.compression == _JPEG:
        # TIFF Technical Note 2: the tables are a stream of their own; what ends it and what starts the other go.
        stream = tables[:-2] + data[2:] if tables else data
        if check_jpeg(stream, (height, width)) != (height, width):
            raise ValueError("a JPEG in it is smaller than its part of the image")
        return
    samples = 1 if layout.planar == _SEVERAL_PLANES else layout.samples
    needed = height * width * samples * layout.bits // 8
    size = len(data) if layout.compression == _RAW else inflated([data], needed)
    if size < needed:
        raise ValueError(f"a part of the image has {size} bytes of {needed}")
