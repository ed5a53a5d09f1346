"""Lines over steps or severities as a picture, drawn with Pillow: no plotting library is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .staging import replacing

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 330, 70, 20, 40, 40
_COLOURS = ("#222222", "#c0392b", "#2471a3", "#b9770e")
_GREY = "#bbbbbb"


@dataclass(frozen=True)
class Panel:
    """Lines over the same places: a title, the places, and (label, values) a line. `low`, `high` fix the axis."""

    title: str
    at: Sequence[float]
    lines: Sequence[tuple[str, Sequence[float]]]
    low: float | None = None
    high: float | None = None


def draw_panels(panels: Sequence[Panel], path: Path, *, columns: int = 1, width: int = WIDTH) -> None:
    """Draw panels in rows of `columns`, each `width` pixels wide, as a PNG. Raises UsageError where it cannot."""
    rows = -(-len(panels) // columns)
    image = Image.new("RGB", (width * columns, HEIGHT * rows), "white")
    draw = ImageDraw.Draw(image)
    for number, panel in enumerate(panels):
        _draw(draw, panel, width * (number % columns), HEIGHT * (number // columns), width)
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

    for part in (0, 0.25, 0.5, 0.75, 1):
        value, at = low + part * (high - low), first + part * (last - first)
        height, across = place(first, value)[1], place(at, low)[0]
        draw.line([(left + LEFT, height), (left + width - RIGHT, height)], fill=_GREY)
        draw.text((left + LEFT - 8, height), f"{value:.3g}", fill="black", font=font, anchor="rm")
        draw.text((across, down + HEIGHT - BOTTOM + 6), f"{at:.3g}", fill="black", font=font, anchor="mt")
    draw.text((left + LEFT, down + 8), panel.title, fill="black", font=font)
    right = left + width - RIGHT
    for number, (label, line) in reversed(list(enumerate(panel.lines))):
        points = [place(at, value) for at, value in zip(panel.at, line, strict=True)]
        colour = _COLOURS[number % len(_COLOURS)]
        draw.line(points if len(points) > 1 else points * 2, fill=colour, width=2)
        draw.text((right, down + 24), label, fill=colour, font=font, anchor="ra")
        right -= int(font.getlength(label)) + 16
