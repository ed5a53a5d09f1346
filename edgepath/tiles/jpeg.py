"""JPEG files decoded strictly: what a usual reader passes over with a warning, and fills with grey, is an error here.

Pixels are those of Pillow to the bit: both decode with libjpeg-turbo, with the same transform and upsampling.

A JPEG has no checksum. Damage that leaves the right number of valid codes, as most flipped bits do, cannot be seen by
any decoder. One common kind does not look like the data of a picture, and is looked for: a run of zeros, which a disk
or a copy that was cut off leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import simplejpeg

ZEROS = bytes(32)
"""As many in a row, where the code of zeros is not "nothing follows", would be a whole block of equal waves."""
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # FF among data is followed by 00, or D0 to D7 at a restart
_START, _END, _TABLES, _SCAN = 0xD8, 0xD9, 0xC4, 0xDA


def decode_jpeg(data: bytes) -> np.ndarray:
    """Return the pixels of a JPEG of three colours, uint8 (H, W, 3). Raises ValueError for whatever is wrong in it."""
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    _refuse_zeroed(data)
    return pixels


def check_jpeg(data: bytes, largest: tuple[int, int]) -> tuple[int, int]:
    """Decode a JPEG of one or three colours, small, and return its height and width, not above `largest`.

    Raises ValueError for whatever is wrong in it.
    """
    height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=True)
    if height > largest[0] or width > largest[1]:
        raise ValueError(f"a JPEG of {width} x {height} pixels where {largest[1]} x {largest[0]} have room")
    simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    _refuse_zeroed(data)
    return int(height), int(width)


def _refuse_zeroed(data: bytes) -> None:
    """Raise ValueError for a run of zeros among the codes of a picture, in one that cannot say so many equal things."""
    if ZEROS in data and any(ZEROS in codes and any(symbol & 15 for symbol in first) for first, codes in _scans(data)):
        raise ValueError("a run of zeros among its data: a part of it is lost")


def _scans(data: bytes) -> Iterator[tuple[list[int], bytes]]:
    """Yield each scan's codes, and what zeros only stand for in the tables of codes that it is written with.

    That is a number of bits that follow in its lower half; none for the end of a block, which flat ground is made of.
    """
    tables: dict[int, int] = {}
    place = 0
    while (marker := _MARKER.search(data, place)) and data[marker.end() - 1] != _END:
        kind, place = data[marker.end() - 1], marker.end()
        if kind == _START:
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        segment, place = data[place + 2 : place + length], place + length
        if kind == _TABLES:
            tables |= _first_symbols(segment)
        elif kind == _SCAN and (end := _MARKER.search(data, place)):
            yield _of_scan(segment, tables), data[place : end.start()]


def _of_scan(header: bytes, tables: Mapping[int, int]) -> list[int]:
    """Return a scan's first symbols; none where zeros are usual: of means only, or refining what was begun before."""
    count = header[0]
    low, high, refined = header[1 + 2 * count], header[2 + 2 * count], header[3 + 2 * count] >> 4
    chosen = header[2 : 2 + 2 * count : 2]
    if refined or not high:
        return []
    means = [] if low else [tables.get(which >> 4, 0) for which in chosen]
    return means + [tables.get(0x10 | which & 15, 0) for which in chosen]


def _first_symbols(segment: bytes) -> dict[int, int]:
    """Return for each Huffman table of a segment, by class and number, the symbol of its first code, all zeros."""
    symbols, place = {}, 0
    while place + 17 < len(segment):
        symbols[segment[place]] = segment[place + 17]
        place += 17 + sum(segment[place + 1 : place + 17])
    return symbols
