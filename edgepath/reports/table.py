"""A table as a value: the terminal, Markdown and HTML each write it in their own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..checks.verdicts import Verdict

Cell = str | bool | Verdict


@dataclass(frozen=True)
class Table:
    """A header and rows of cells under it. A cell is text, or a verdict: of a sample, or True where a gate passed."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __bool__(self) -> bool:
        return bool(self.rows)

    def columns(self, chosen: Sequence[int]) -> Table:
        """Return some of the columns, in the order of `chosen`."""
        rows = tuple(tuple(row[i] for i in chosen) for row in self.rows)
        return Table(tuple(self.header[i] for i in chosen), rows)

    def first(self, count: int) -> Table:
        """Return the first rows."""
        return Table(self.header, self.rows[:count])

    def turned(self) -> Table:
        """Return the table with rows as columns; the first column becomes the header."""
        header, *rows = zip(self.header, *self.rows, strict=True)
        return Table(tuple(map(str, header)), tuple(rows))


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    """Return a table of a header and rows."""
    return Table(tuple(header), tuple(map(tuple, rows)))


def words(cell: Cell) -> str:
    """Return a cell as plain text."""
    if isinstance(cell, Verdict):
        return "INFERIOR" if cell is Verdict.INFERIOR else cell.value
    return cell if isinstance(cell, str) else "ok" if cell else "FAILED"


def judged(cell: Cell) -> Verdict:
    """Return the verdict in a cell."""
    if isinstance(cell, Verdict):
        return cell
    return Verdict.NON_INFERIOR if cell else Verdict.INFERIOR


def failed(cell: Cell) -> bool:
    """Tell whether a cell is the verdict of a gate that was missed."""
    return judged(cell) is Verdict.INFERIOR
