"""Curves and intervals as inline SVG: no script, no font of its own, and the page's colours by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .elements import escape

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 220, 150, 28, 8, 24, 28
_ROW, _NAMES, _AXIS = 20, 165, 22


@dataclass(frozen=True)
class Line:
    """A line's class in the style sheet, and its values."""

    kind: str
    values: Sequence[float]


def curve(title: str, unit: str, degrees: Sequence[float], lines: Sequence[Line], low: float) -> str:
    """Return one small plot: `lines` over `degrees`, from `low` to 1 upwards."""
    first, last = degrees[0], max(degrees[-1], degrees[0] + 1e-9)

    def place(degree: float, value: float) -> tuple[float, float]:
        across = _LEFT + (degree - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)
        share = (min(1.0, max(low, value)) - low) / (1 - low)
        return across, _TOP + (1 - share) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text class="title" x="{_LEFT}" y="13">{escape(title)}</text>']
    for value in (low, (low + 1) / 2, 1.0):
        height = place(first, value)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 4}" y="{height + 3.5:.1f}" text-anchor="end">{value:g}</text>')
    for degree, anchor in ((degrees[0], "start"), (degrees[-1], "end")):
        parts.append(
            f'<text x="{place(degree, low)[0]:.1f}" y="{_HEIGHT - 15}" text-anchor="{anchor}">{degree:g}</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{_HEIGHT - 3}" text-anchor="middle">{escape(unit)}</text>')
    for line in lines:
        points = [place(degree, value) for degree, value in zip(degrees, line.values, strict=True)]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="{line.kind}" points="{joined}"/>')
    said = f"{title}: {unit} {degrees[0]:g} to {degrees[-1]:g}"
    return _svg(_WIDTH, _HEIGHT, said, parts)


@dataclass(frozen=True)
class Interval:
    """A value with its interval, the name of its row, and a class in the style sheet."""

    name: str
    kind: str
    value: float
    low: float
    high: float


def intervals(title: str, rows: Sequence[Interval], low: float, high: float = 1.0, width: int = 360) -> str:
    """Return values as dots on a common axis from `low` to `high`, each with a bar from end to end of its interval."""
    height = _TOP + _ROW * len(rows) + _AXIS

    def place(value: float) -> float:
        return _NAMES + (min(high, max(low, value)) - low) / (high - low or 1.0) * (width - _NAMES - 14)

    parts = [f'<text class="title" x="0" y="13">{escape(title)}</text>']
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        value, bottom = low + part * (high - low), height - _AXIS
        across = place(value)
        parts.append(f'<line class="grid" x1="{across:.1f}" x2="{across:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{across:.1f}" y="{height - 8}" text-anchor="middle">{value:.3g}</text>')
    for number, row in enumerate(rows):
        down = _TOP + _ROW * (number + 0.5)
        parts.append(f'<text x="{_NAMES - 8}" y="{down + 3.5:.1f}" text-anchor="end">{escape(row.name)}</text>')
        ends = f'x1="{place(row.low):.1f}" x2="{place(row.high):.1f}" y1="{down:.1f}" y2="{down:.1f}"'
        parts.append(f'<line class="{row.kind}" {ends}/>')
        parts.append(f'<circle class="{row.kind}" cx="{place(row.value):.1f}" cy="{down:.1f}" r="4"/>')
    return _svg(width, height, title, parts)


def key(entries: Mapping[str, str]) -> str:
    """Return what each kind of line (its class) stands for, as it is drawn."""
    drawn = [
        f'<span><svg class="swatch" viewBox="0 0 28 10" width="28" height="10" aria-hidden="true">'
        f'<line class="{kind}" x1="2" x2="26" y1="5" y2="5"/></svg> {escape(word)}</span>'
        for kind, word in entries.items()
    ]
    return '<p class="key">' + " ".join(drawn) + "</p>\n"


def _svg(width: int, height: int, said: str, parts: Sequence[str]) -> str:
    inside = "\n".join(parts)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(said)}">\n{inside}\n</svg>\n'
