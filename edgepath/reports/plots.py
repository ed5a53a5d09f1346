"""Lines over steps or severities as a picture, drawn with Pillow: no plotting library is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..machine.writing import replacing

WIDTH, HEIGHT, HEAD, LEFT, RIGHT, TOP, BOTTOM = 900, 330, 30, 70, 20, 48, 40
_COLOURS = ("#222222", "#c0392b", "#2471a3", "#b9770e")
_GREY = "#bbbbbb"


@dataclass(frozen=True)
class Panel:
    """Lines over the same places: a title, the places, and (label, values) a line.

    `low`, `high` fix the axis. Lines are drawn in their order; those of `broad`, by number, so that one drawn over them
    does not hide them.
    """

    title: str
    at: Sequence[float]
    lines: Sequence[tuple[str, Sequence[float]]]
    low: float | None = None
    high: float | None = None
    broad: Sequence[int] = ()


def draw_panels(
    panels: Sequence[Panel], path: Path, *, columns: int = 1, width: int = WIDTH, heading: str = ""
) -> None:
    """Draw panels in rows of `columns`, each `width` pixels wide, as a PNG. Raises UsageError where it cannot."""
    rows, head = -(-len(panels) // columns), HEAD if heading else 0
    image = Image.new("RGB", (width * columns, head + HEIGHT * rows), "white")
    draw = ImageDraw.Draw(image)
    draw.text((LEFT, 10), heading, fill="black", font=ImageFont.load_default(15))
    for number, panel in enumerate(panels):
        _draw(draw, panel, width * (number % columns), head + HEIGHT * (number // columns), width)
    with replacing(path, "plot") as partial:
        image.save(partial, "PNG")


def _draw(draw: ImageDraw.ImageDraw, panel: Panel, left: int, down: int, width: int) -> None:
    font = ImageFont.load_default(13)
    values = [value for _, line in panel.lines for value in line]
    low = min(values) if panel.low is None else panel.low
    high = max(values) if panel.high is None else panel.high
    high = high if high > low else low + 1
    first, last = panel.at[0], max(panel.at[-1], panel.at[0] + 1e-9)

    def place(at: float, value: float) -> tuple[float, float]:
        across = left + LEFT + (at - first) / (last - first) * (width - LEFT - RIGHT)
        return across, down + HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    for value in _ticks(low, high):
        height = place(first, value)[1]
        draw.line([(left + LEFT, height), (left + width - RIGHT, height)], fill=_GREY)
        draw.text((left + LEFT - 8, height), f"{value:.6g}", fill="black", font=font, anchor="rm")
    for at in _ticks(first, last) if len(panel.at) > 1 else [first]:
        across = place(at, low)[0]
        draw.line([(across, down + HEIGHT - BOTTOM), (across, down + HEIGHT - BOTTOM + 4)], fill=_GREY)
        draw.text((across, down + HEIGHT - BOTTOM + 6), f"{at:.6g}", fill="black", font=font, anchor="mt")
    draw.text((left + LEFT, down + 8), panel.title, fill="black", font=font)
    right = left + width - RIGHT
    for number, (_, line) in enumerate(panel.lines):
        points = [place(at, value) for at, value in zip(panel.at, line, strict=True)]
        thick = 6 if number in panel.broad else 2
        draw.line(points if len(points) > 1 else points * 2, fill=_COLOURS[number % len(_COLOURS)], width=thick)
    for number, (label, _) in reversed(list(enumerate(panel.lines))):
        draw.text((right, down + 22), label, fill=_COLOURS[number % len(_COLOURS)], font=font, anchor="ra")
        right -= int(font.getlength(label)) + 16


def _ticks(low: float, high: float) -> list[float]:
    """Return the round numbers from low to high, three to six of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= 0.999 * rough)
    return [step * count for count in range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)]
