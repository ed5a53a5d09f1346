"""Colour scales for heat maps: light to dark blue, and orange to purple for differences.

Both are ColorBrewer's (Blues, PuOr; Apache-2.0), which keep their order under all common kinds of colour blindness and
in grey. Numbers stand in the cells besides, in black or white, whichever is read better.
"""

from __future__ import annotations

from collections.abc import Sequence

RGB = tuple[int, int, int]

BLUES: tuple[RGB, ...] = (
    *((247, 251, 255), (222, 235, 247), (198, 219, 239), (158, 202, 225), (107, 174, 214)),
    *((66, 146, 198), (33, 113, 181), (8, 81, 156), (8, 48, 107)),
)
ORANGE_TO_PURPLE: tuple[RGB, ...] = (
    *((127, 59, 8), (179, 88, 6), (224, 130, 20), (253, 184, 99), (254, 224, 182), (247, 247, 247)),
    *((216, 218, 235), (178, 171, 210), (128, 115, 172), (84, 39, 136), (45, 0, 75)),
)


def shade(scale: Sequence[RGB], share: float) -> RGB:
    """Return the colour at `share` (0..1, clipped) of a scale, between its steps linearly."""
    at = min(1.0, max(0.0, share)) * (len(scale) - 1)
    low = min(int(at), len(scale) - 2)
    mixed = [round(a + (b - a) * (at - low)) for a, b in zip(scale[low], scale[low + 1], strict=True)]
    return mixed[0], mixed[1], mixed[2]


def style(colour: RGB) -> str:
    """Return a cell's style: this ground, and black or white text."""
    text = max(((0, 0, 0), (255, 255, 255)), key=lambda one: contrast(one, colour))
    return f"background:#{_hex(colour)};color:#{_hex(text)}"


def contrast(one: RGB, other: RGB) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: RGB) -> float:
    light = [c / 12.92 if (c := level / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for level in colour]
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]


def _hex(colour: RGB) -> str:
    return "".join(f"{level:02x}" for level in colour)
