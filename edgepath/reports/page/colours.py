"""Colour scales for heat maps: light to dark blue, and orange to purple for differences.

Both are ColorBrewer's (Blues, PuOr), as matplotlib has them: they keep their order under all common kinds of colour
blindness and in grey. Numbers stand in the cells besides, in black or white, whichever is read better.
"""

from __future__ import annotations

from typing import Literal

from ...machine.packages import require

RGB = tuple[float, float, float]
Scale = Literal["Blues", "PuOr"]
_INKS = {"#000000": 0.0, "#ffffff": 1.0}  # and their luminance


def shade(scale: Scale, share: float) -> RGB:
    """Return the colour at `share` (0..1, clipped) of a scale, red, green and blue from 0 to 1."""
    require("matplotlib", "plots")
    from matplotlib import colormaps

    red, green, blue, _ = colormaps[scale](min(1.0, max(0.0, float(share))))
    return red, green, blue


def written(colour: RGB) -> str:
    """Return a colour as HTML writes it."""
    return "#" + "".join(f"{round(255 * level):02x}" for level in colour)


def ink(ground: RGB) -> str:
    """Return black or white, whichever is read better on this ground."""
    return max(_INKS, key=lambda colour: contrast(_INKS[colour], luminance(ground)))


def contrast(first: float, second: float) -> float:
    """Return the contrast ratio of two luminances, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((first, second))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: RGB) -> float:
    """Return a colour's relative luminance, 0 to 1 (WCAG 2.2)."""
    light = [level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in colour]
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]
