"""Curves and intervals: what `svg.html.j2` draws inline, in the page's colours, without a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, and where these two lie in the picture."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return where a value lies; one beyond the axis lies at its end."""
        share = (min(self.high, max(self.low, value)) - self.low) / (self.high - self.low or 1.0)
        return self.start + share * (self.end - self.start)


@dataclass(frozen=True)
class Line:
    """A line's class in the style sheet, and its values."""

    kind: str
    values: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """One small plot: lines over degrees, from `low` to 1 upwards."""

    title: str
    unit: str
    degrees: Sequence[float]
    lines: Sequence[Line]
    low: float

    @property
    def across(self) -> Axis:
        """Where a degree lies from left to right."""
        return Axis(self.degrees[0], self.degrees[-1], 28, 212)

    @property
    def down(self) -> Axis:
        """Where a value lies from the top."""
        return Axis(self.low, 1.0, 122, 24)


@dataclass(frozen=True)
class Interval:
    """A value with its interval, the name of its row, and a class in the style sheet."""

    name: str
    kind: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Values as dots on a common axis from `low` to `high`."""

    title: str
    rows: Sequence[Interval]
    low: float
    high: float = 1.0

    @property
    def axis(self) -> Axis:
        """Where a value lies from left to right, beside the names."""
        return Axis(self.low, self.high, 165, 346)
