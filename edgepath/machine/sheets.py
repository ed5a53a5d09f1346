"""CSV tables: read strictly, and written so that a spreadsheet takes no text in them for a formula."""

from __future__ import annotations

import csv
import re
from pathlib import Path

_NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def read_sheet(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return a table's columns, in lower case, and its rows by them; a short row's last values are empty.

    Raises OSError, or ValueError for what is no table: other encodings than UTF-8, open quotes, a row with more values
    than there are columns, a column twice.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # spreadsheets put a mark before UTF-8
            reader = csv.reader(file, strict=True)
            columns = [name.strip().lower() for name in next(reader, [])]
            if twice := [name for name in columns if name and columns.count(name) > 1]:
                raise ValueError(f"its column {twice[0]} stands there twice")
            rows = []
            for row in filter(None, reader):
                if len(row) > len(columns):
                    problem = f"line {reader.line_num} has {len(row)} values, there are {len(columns)} columns"
                    raise ValueError(f"{problem}: a comma too many, or a value with commas that is not in quotes")
                rows.append(dict.fromkeys(columns, "") | dict(zip(columns, map(str.strip, row), strict=False)))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    return columns, rows


def as_text(value: str) -> str:
    """Return a value for a CSV cell; with a quote before it, which spreadsheets hide, if it would be a formula."""
    formula = len(value) > 1 and value[0] in "=+-@\t\r" and not _NUMBER.fullmatch(value)
    return f"'{value}" if formula else value
