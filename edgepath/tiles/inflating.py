"""What Pillow passes over in compressed pixels: a stream that ends before the image does, as of a PNG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by the colour type of a PNG
_PIECE = 1 << 16
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def inflated(pieces: Iterable[bytes], most: int) -> int:
    """Return how many bytes a zlib stream holds, up to `most`; ValueError unless its checksum fits."""
    stream, size = zlib.decompressobj(), 0
    try:
        for piece in pieces:
            while piece and not stream.eof:
                size += len(stream.decompress(piece, 1 << 20))
                piece = stream.unconsumed_tail
                if size > most + (1 << 20):
                    raise ValueError(f"a part of the image has more than {most} bytes")
    except zlib.error as error:
        raise ValueError(f"a part of the image is damaged: {error}") from None
    if not stream.eof:
        raise ValueError("a part of the image is cut off")
    return size


def check_png(file: IO[bytes]) -> None:
    """Raise ValueError for a PNG whose checksums are right, but whose pixels are fewer than its header says."""
    if [place for place, (name, _) in enumerate(_parts(file)) if name == b"IHDR"] != [0]:
        raise ValueError("a PNG begins with its one header (IHDR); this one has another part first, or several")
    file.seek(16)
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", file.read(13))
    needed = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-max(0, width - left) // across), -(-max(0, height - top) // down)
        needed += rows * (1 + -(-columns * bits * _SAMPLES[colour] // 8)) if columns else 0
    if (size := inflated(_pixels(file), needed)) < needed:
        raise ValueError(f"its pixels have {size} bytes of {needed}")


def _parts(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield the name and length of each part of a PNG, with the file where its content begins."""
    place = 8
    file.seek(place)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        yield head[4:], length
        place += length + 12
        file.seek(place)


def _pixels(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the compressed pixels of a PNG, a little at a time."""
    for name, left in _parts(file):
        while name == b"IDAT" and left and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            yield piece
