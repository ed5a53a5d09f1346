"""Heat maps: what a model scores under every staining and scanner, what another scores, and what is between them.

A look is a staining on a scanner. Its cell is the mean over all pairs of slides that it is one of: with PLISM's 91
looks, over 90 pairs. That is the mean which the gates on the worst scanner and staining use too, so the map shows where
such a gate failed. Where stainings are not named, or there is one only, a cell is a pair of slides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...quality.results import Figure, Pair
from .colours import Scale, ink, shade, written


@dataclass(frozen=True)
class Matrix:
    """A value a (row, column), None where nothing was measured; `looks` tells cells of looks from cells of pairs."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    looks: bool

    @property
    def known(self) -> list[float]:
        return [value for row in self.values for value in row if value is not None]


def matrix(pairs: Sequence[Pair], looks: Mapping[str, Sequence[str]], figure: Figure) -> Matrix:
    """Return a figure of pairs of slides (`of`, and the figure) by look; `looks` names staining and scanner of each."""
    stainings = sorted({staining for staining, _ in looks.values()})
    scanners = sorted({scanner for _, scanner in looks.values()})
    by_look = all(stainings) and min(len(stainings), len(scanners)) > 1
    rows, columns = (stainings, scanners) if by_look else (sorted(looks), sorted(looks))
    by_cell: dict[tuple[str, str], list[float]] = {}
    for pair in pairs:
        first, second = pair["of"]
        for cell in (tuple(looks[first]), tuple(looks[second])) if by_look else ((first, second), (second, first)):
            by_cell.setdefault((cell[0], cell[1]), []).append(pair[figure])
    values = tuple(tuple(_mean(by_cell.get((row, column), ())) for column in columns) for row in rows)
    return Matrix(tuple(rows), tuple(columns), values, by_look)


def less(full: Matrix, artifact: Matrix) -> Matrix:
    """Return artifact - full precision: what is below 0 was lost."""
    values = tuple(
        tuple(None if a is None or b is None else b - a for a, b in zip(*rows, strict=True))
        for rows in zip(full.values, artifact.values, strict=True)
    )
    return Matrix(full.rows, full.columns, values, full.looks)


@dataclass(frozen=True)
class Cell:
    """A value in words, on its colour."""

    text: str
    ground: str
    ink: str


@dataclass(frozen=True)
class HeatMap:
    """What `heat_map` in parts.html.j2 draws; a row is its name and its cells, None where nothing was measured."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, list[Cell | None]], ...]


def map_scores(scores: Matrix, title: str, low: float, high: float) -> HeatMap:
    """Return a heat map of scores, light at `low` and dark at `high`."""
    spread = high - low or 1.0
    return _map(scores, title, lambda value: _cell(f"{value:.2f}", "Blues", (value - low) / spread))


def map_differences(differences: Matrix, title: str, allowed: float) -> HeatMap:
    """Return a heat map of differences in hundredths: orange was lost, darkest at twice what is `allowed`."""
    return _map(differences, title, lambda value: _cell(_signed(value), "PuOr", 0.5 + value / (4 * allowed or 1.0)))


def _map(scores: Matrix, title: str, cell: Callable[[float], Cell]) -> HeatMap:
    rows = [[None if value is None else cell(value) for value in values] for values in scores.values]
    return HeatMap(title, scores.columns, tuple(zip(scores.rows, rows, strict=True)))


def _cell(text: str, scale: Scale, share: float) -> Cell:
    ground = shade(scale, share)
    return Cell(text, written(ground), ink(ground))


def _signed(value: float) -> str:
    hundredths = f"{100 * value:+.1f}"
    return "0.0" if hundredths in ("+0.0", "-0.0") else hundredths.replace("-", "\N{MINUS SIGN}")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
