"""A run's losses and agreements as a picture, drawn with Pillow: no plotting library is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 330, 70, 20, 40, 40
Panels = Sequence[tuple[str, Sequence[str]]]
DISTILLATION = (
    ("loss (cross-entropy, nats)", ("loss", "dino", "ibot")),
    ("agreement with the teacher (share of equal nearest prototypes)", ("cls_agreement", "patch_agreement")),
)
_COLOURS = ("#222222", "#c0392b", "#2471a3")
_GREY = "#bbbbbb"


def draw_log(rows: Sequence[dict[str, float]], path: Path, panels: Panels = DISTILLATION) -> None:
    """Draw columns of a log, one panel (title, columns) over the other, as a PNG."""
    image = Image.new("RGB", (WIDTH, HEIGHT * len(panels)), "white")
    draw = ImageDraw.Draw(image)
    for number, (title, columns) in enumerate(panels):
        _panel(draw, rows, title, columns, number * HEIGHT)
    image.save(path)


def _panel(
    draw: ImageDraw.ImageDraw, rows: Sequence[dict[str, float]], title: str, columns: Sequence[str], down: int
) -> None:
    font = ImageFont.load_default(13)
    steps = [row["step"] for row in rows]
    values = [row[column] for row in rows for column in columns]
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def place(step: float, value: float) -> tuple[float, float]:
        across = LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        return across, down + HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    for part in (0, 0.25, 0.5, 0.75, 1):
        value, step = low + part * (high - low), first + part * (last - first)
        height, across = place(first, value)[1], place(step, low)[0]
        draw.line([(LEFT, height), (WIDTH - RIGHT, height)], fill=_GREY)
        draw.text((LEFT - 8, height), f"{value:.3g}", fill="black", font=font, anchor="rm")
        draw.text((across, down + HEIGHT - BOTTOM + 6), f"{step:.0f}", fill="black", font=font, anchor="mt")
    draw.text((LEFT, down + 12), title, fill="black", font=font)
    for number, column in enumerate(columns):
        points = [place(row["step"], row[column]) for row in rows]
        draw.line(points if len(points) > 1 else points * 2, fill=_COLOURS[number], width=2)
        draw.text((WIDTH - RIGHT - 130 * (len(columns) - number), down + 12), column, fill=_COLOURS[number], font=font)
