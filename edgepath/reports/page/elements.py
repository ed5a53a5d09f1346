"""Pieces of HTML. What comes in as values is escaped here, so that a tile's name cannot become a part of the page."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_NUMBER = re.compile(r"([<>]=? ?)?[+-]?\d[\d,.]*(e[+-]?\d+)?( ± \d[\d.]*)?( ?(%|s|ms|MB|GiB))?|-|inf|nan")
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_VERDICTS = {"ok": "ok", "FAILED": "failed"}


def escape(value: object) -> str:
    """Return a value as text for an element or a quoted attribute.

    Control characters, those that turn the direction of text, and bytes of file names that are no text become U+FFFD.
    """
    return html.escape(_UNSEEN.sub("\ufffd", str(value)), quote=True)


def paragraph(text: object, kind: str = "") -> str:
    """Return a paragraph of plain text; `kind` is its class."""
    return f"<p{_class(kind)}>{escape(text)}</p>\n"


def remarks(said: Sequence[str], kind: str = "remarks") -> str:
    """Return cautions or notes as a list, or nothing."""
    return f'<ul class="{kind}">' + "".join(f"<li>{escape(text)}</li>" for text in said) + "</ul>\n" if said else ""


def section(name: str, title: str, body: str) -> str:
    """Return a part of the page; `body` is HTML."""
    return f'<section id="{escape(name)}">\n<h2>{escape(title)}</h2>\n{body}</section>\n'


def figure(body: str, caption: str) -> str:
    """Return HTML with a caption of plain text below it."""
    return f"<figure>\n{body}<figcaption>{escape(caption)}</figcaption>\n</figure>\n"


def folded(title: str, body: str) -> str:
    """Return HTML that a reader unfolds, under a line of plain text."""
    return f"<details>\n<summary>{escape(title)}</summary>\n{body}</details>\n"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, kind: str = "") -> str:
    """Return a table; its first column names the rows. Cells that are numbers stand right, verdicts are coloured.

    An empty first cell belongs to the row above. It scrolls by itself where it is too wide for the page.
    """
    head = "".join(f'<th scope="col"{_class(_kind_of_column(rows, i))}>{escape(h)}</th>' for i, h in enumerate(header))
    lines = [f"<tr>{head}</tr>"] if any(header) else []
    lines += ["<tr" + _class("" if row[0] else "same") + ">" + "".join(_cells(row)) + "</tr>" for row in rows]
    return f'<div class="wide"><table{_class(kind)}>\n' + "\n".join(lines) + "\n</table></div>\n"


def transposed(header: Sequence[str], rows: Sequence[Sequence[object]], *, kind: str = "") -> str:
    """Return the same table with rows as columns: narrower, where few things have many figures."""
    turned = list(zip(header, *rows, strict=True))
    return table([str(cell) for cell in turned[0]], turned[1:], kind=kind)


def side_by_side(*parts: str) -> str:
    """Return pieces of HTML beside one another where the page is wide enough, below one another where it is not."""
    return '<div class="side">\n' + "".join(f"<div>{part}</div>\n" for part in parts) + "</div>\n"


def verdict(passed: bool) -> str:
    """Return the word that gates' rows end in."""
    return "ok" if passed else "FAILED"


def _cells(row: Sequence[object]) -> list[str]:
    cells = [f'<th scope="row">{escape(row[0])}</th>']
    for cell in row[1:]:
        word = _VERDICTS.get(str(cell), "")
        mark = {"ok": "✓ ", "failed": "✗ "}.get(word, "")
        number = "number" if _NUMBER.fullmatch(str(cell)) else ""
        cells.append(f"<td{_class(word or number)}>{mark}{escape(cell)}</td>")
    return cells


def _kind_of_column(rows: Sequence[Sequence[object]], column: int) -> str:
    numbers = column and rows and all(_NUMBER.fullmatch(str(row[column])) for row in rows)
    return "number" if numbers else ""


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
