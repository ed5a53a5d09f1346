"""JPEG files decoded strictly: what a usual reader passes over with a warning, and fills with grey, is an error here.

Pixels are those of Pillow to the bit: both decode with libjpeg-turbo, with the same transform and upsampling.

A JPEG has no checksum. Damage that leaves the right number of valid codes, as most flipped bits do, cannot be seen by
any decoder. Two common kinds do not look like a picture, and are looked for: a run of zeros, which a disk or a copy
that was cut off leaves, and missing scans of a progressive picture that was cut between two of them and closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
import simplejpeg

ZEROS = bytes(32)
"""As many in a row, where the code of zeros is not "nothing follows", would be a whole block of equal waves."""
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # FF among data is followed by 00, or D0 to D7 at a restart
_START, _END, _TABLES, _STEPS, _SCAN = 0xD8, 0xD9, 0xC4, 0xDB, 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # of waves: sequential and progressive


def decode_jpeg(data: bytes) -> np.ndarray:
    """Return the pixels of a JPEG of three colours, uint8 (H, W, 3). Raises ValueError for whatever is wrong in it."""
    pixels: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    _refuse_incomplete(data)
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
    _refuse_incomplete(data)
    _refuse_zeroed(data)
    return int(height), int(width)


def _refuse_incomplete(data: bytes) -> None:
    """Raise ValueError unless scans bring each wave of each colour to its last bit, by steps that are not zero."""
    missing: dict[int, list[int]] = {}
    for kind, segment, _ in _segments(data):
        if kind in _FRAMES:
            missing = {segment[place]: [1] * 64 for place in range(6, 6 + 3 * segment[5], 3)}
        elif kind == _SCAN:
            count = segment[0]
            low, high, bits = segment[1 + 2 * count], segment[2 + 2 * count], segment[3 + 2 * count] & 15
            for colour in set(segment[1 : 1 + 2 * count : 2]) & missing.keys():
                missing[colour][low : high + 1] = [bits] * (high + 1 - low)
        elif kind == _STEPS and _zero_steps(segment):
            raise ValueError("a table of steps with zeros: a part of it is lost")
    if any(map(any, missing.values())):
        raise ValueError("scans are missing: it was cut off between two of them")


def _zero_steps(segment: bytes) -> bool:
    """Tell whether a segment of quantization tables holds a zero, which none of them may (ITU-T T.81, B.2.4.1)."""
    place = 0
    while place < len(segment):
        size = 2 if segment[place] >> 4 else 1
        steps = np.frombuffer(segment[place + 1 : place + 1 + 64 * size], f">u{size}")
        if not steps.all():
            return True
        place += 1 + 64 * size
    return False


def _refuse_zeroed(data: bytes) -> None:
    """Raise ValueError for a run of zeros among the codes of a picture, in one that cannot say so many equal things."""
    if ZEROS in data and any(ZEROS in codes and any(symbol & 15 for symbol in first) for first, codes in _scans(data)):
        raise ValueError("a run of zeros among its data: a part of it is lost")


def _scans(data: bytes) -> Iterator[tuple[list[int], bytes]]:
    """Yield each scan's codes, and what zeros only stand for in the tables of codes that it is written with.

    That is a number of bits that follow in its lower half; none for the end of a block, which flat ground is made of.
    """
    tables: dict[int, int] = {}
    for kind, segment, place in _segments(data):
        if kind == _TABLES:
            tables |= _first_symbols(segment)
        elif kind == _SCAN and (end := _MARKER.search(data, place)):
            yield _of_scan(segment, tables), data[place : end.start()]


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield the marker of each segment, what it holds, and where that ends."""
    place = 0
    while (marker := _MARKER.search(data, place)) and data[marker.end() - 1] != _END:
        kind, place = data[marker.end() - 1], marker.end()
        if kind != _START:
            length = int.from_bytes(data[place : place + 2], "big")
            segment, place = data[place + 2 : place + length], place + length
            yield kind, segment, place


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
