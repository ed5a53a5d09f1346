"""What Pillow decodes of JPEG 2000 to other pixels: samples of more than 8 bits overflow, and Lab passes for RGB."""

from __future__ import annotations

import re
import struct

from .formats import REMEDY, Refused

_SIZE = re.compile(rb"\xff\x4f\xff\x51.{36}(..)", re.DOTALL)  # ISO/IEC 15444-1, A.5.1, up to the components
_COLOURS = re.compile(rb"colr\x01..(....)", re.DOTALL)  # a colour specification by number
_UNSPECIFIED, _SRGB, _SYCC = 0, 16, 18


def check_jpeg2000(mode: str, data: bytes) -> None:
    """Raise Refused for samples that are not 8 whole bits, or lie apart, and for colours that are not RGB or YCC.

    `mode` is what Pillow makes of it: palettes are refused, as nothing here writes any to compare with.
    """
    if mode not in ("RGB", "RGBA"):
        raise Refused(f"JPEG 2000 that becomes Pillow's mode {mode}; {REMEDY}")
    for match in _SIZE.finditer(data):
        (count,) = struct.unpack(">H", match[1])
        samples = data[match.end() : match.end() + 3 * count]
        if set(zip(samples[::3], samples[1::3], samples[2::3], strict=False)) != {(7, 1, 1)}:
            raise Refused(f"JPEG 2000 with samples of {samples[0] % 128 + 1} bits, or of a lower resolution; {REMEDY}")
    for match in _COLOURS.finditer(data):
        (colours,) = struct.unpack(">I", match[1])
        if colours not in (_UNSPECIFIED, _SRGB, _SYCC):
            raise Refused(f"JPEG 2000 in colour space {colours}, RGB is needed; convert the file to 8-bit sRGB")
