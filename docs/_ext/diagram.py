"""Draw boxes and arrows from text: `python docs/_ext/diagram.py FILE.txt ...` writes FILE.svg beside each.

A blank line begins a new column. `name: title | line | line` is a box, `name -> other` an arrow between two boxes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

LINE, LETTER, PAD, GAP, BETWEEN = 19, 7.6, 12, 44, 18  # pixels
FONT = "font-family='system-ui, Helvetica, Arial, sans-serif'"


@dataclass
class Box:
    """A box: its lines, and where it lies."""

    lines: list[str]
    x: float = 0
    y: float = 0

    @property
    def width(self) -> float:
        return 2 * PAD + max(LETTER * len(line) * (1.06 if line is self.lines[0] else 1) for line in self.lines)

    @property
    def height(self) -> float:
        return 2 * PAD + LINE * len(self.lines) - 5


def draw(text: str) -> str:
    """Return the SVG of a diagram."""
    boxes: dict[str, Box] = {}
    columns: list[list[Box]] = [[]]
    arrows: list[tuple[str, str]] = []
    for line in text.strip().splitlines():
        if not line.strip():
            columns.append([])
        elif " -> " in line:
            arrows.append(tuple(part.strip() for part in line.split(" -> ")))  # type: ignore[arg-type]
        elif not line.startswith("#"):
            name, _, content = line.partition(":")
            boxes[name.strip()] = Box([part.strip() for part in content.split("|")])
            columns[-1].append(boxes[name.strip()])
    columns = [column for column in columns if column]
    height = max(sum(box.height + BETWEEN for box in column) for column in columns) - BETWEEN + 8
    x = 4.0
    for column in columns:
        width, y = max(box.width for box in column), (height - sum(b.height + BETWEEN for b in column) + BETWEEN) / 2
        for box in column:
            box.x, box.y = x + (width - box.width) / 2, y
            y += box.height + BETWEEN
        x += width + GAP
    drawn = [_arrow(boxes[one], boxes[other]) for one, other in arrows] + [_box(box) for box in boxes.values()]
    size = f"viewBox='0 0 {x - GAP + 4:.0f} {height:.0f}' width='{x - GAP + 4:.0f}' height='{height:.0f}'"
    head = (
        "<marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>"
        "<path d='M0 0L8 4L0 8z' fill='#0072b2'/></marker>"
    )
    inside = "\n".join(drawn)
    opening = f"<svg xmlns='http://www.w3.org/2000/svg' {size} {FONT} font-size='13'>"
    return f"{opening}\n<defs>{head}</defs>\n{inside}\n</svg>\n"


def _box(box: Box) -> str:
    middle = box.x + box.width / 2
    place = f"x='{box.x:.1f}' y='{box.y:.1f}' width='{box.width:.1f}' height='{box.height:.1f}'"
    drawn = [f"<rect {place} rx='6' fill='#ffffff' stroke='#0072b2'/>"]
    for number, line in enumerate(box.lines):
        style = "fill='#59636e'" if number else "font-weight='600' fill='#1f2328'"
        down = box.y + PAD + 10 + LINE * number
        drawn.append(f"<text x='{middle:.1f}' y='{down:.1f}' text-anchor='middle' {style}>{escape(line)}</text>")
    return "\n".join(drawn)


def _arrow(one: Box, other: Box) -> str:
    x1, y1, x2, y2 = one.x + one.width, one.y + one.height / 2, other.x - 2, other.y + other.height / 2
    middle = (x1 + x2) / 2
    path = f"M{x1:.1f} {y1:.1f}C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return f"<path d='{path}' fill='none' stroke='#0072b2' stroke-width='1.5' marker-end='url(#head)'/>"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).with_suffix(".svg").write_text(draw(Path(name).read_text(encoding="utf-8")), encoding="utf-8")
