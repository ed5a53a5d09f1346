"""Labelled tiles for `probe`: a folder with a folder a class, or a table; and which tiles belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UsageError
from ..machine.sheets import read_sheet
from ..tiles.opening import open_tiles
from ..tiles.origins import origins, table_beside
from ..tiles.source import TileSource

_UNITS = ("patient", "patient_id", "case", "case_id", "slide", "slide_id")
"""Columns that say which tiles belong together, the widest first; tiles of one patient are alike on any slide."""


@dataclass(frozen=True)
class Labelled:
    """Tiles, the label of each by its key, and the group of each (a patient, a slide); None where that is not known."""

    source: TileSource
    labels: Mapping[str, str]
    groups: Mapping[str, str] | None

    def of(self, keys: Sequence[str]) -> tuple[list[str], list[str] | None]:
        """Return the labels and the groups of some tiles."""
        return [self.labels[key] for key in keys], None if self.groups is None else [self.groups[key] for key in keys]


def open_labelled(path: Path, *, size: int = 224, resize: str = "refuse", skip_bad: bool = False) -> Labelled:
    """Open a folder or a CSV of labelled tiles, as `probe` describes them.

    Raises UsageError for a tile without a label, for groups of some tiles only, and for a single group.
    """
    if path.suffix.lower() == ".csv":
        return _of_table(path, size, resize, skip_bad)
    source = open_tiles(path, size=size, resize=resize, skip_bad=skip_bad)
    known = origins(source)
    labels = {key: known[key]["label"] for key in source.keys}
    if not any(labels.values()):  # no table names any: the folders do
        labels = {key: key.split("/")[0] if "/" in key else "" for key in source.keys}
    if bare := [key for key, label in labels.items() if not label]:
        raise UsageError(f"probe {path}: {bare[0]} has no label; give a folder with a folder a class, or a CSV")
    table = table_beside(source)
    column = next((name for name in _UNITS if any(row.get(name) for row in table.values())), None)
    if column:
        groups = {key: table.get(key, {}).get(column, "") for key in source.keys}
    else:  # file names may tell slides
        column, groups = "slide", {key: known[key]["slide"] for key in source.keys}
    _check_groups(path, column, groups)
    return Labelled(source, labels, groups if all(groups.values()) else None)


def _check_groups(path: Path, column: str, groups: Mapping[str, str]) -> None:
    bare = [key for key, group in groups.items() if not group]
    if bare and len(bare) < len(groups):
        raise UsageError(f"probe {path}: the {column} of {bare[0]} is not known, others' are; name all in a CSV")
    if not bare and len(set(groups.values())) == 1:
        raise UsageError(
            f"probe {path}: every tile is of {column} {next(iter(groups.values()))}, as tables or file names say; "
            "give a CSV with columns path, label and slide"
        )


def _of_table(path: Path, size: int, resize: str, skip_bad: bool) -> Labelled:
    table = _rows(path)
    source = open_tiles(path.parent, size=size, resize=resize, skip_bad=skip_bad)
    if missing := sorted(table.keys() - set(source.keys)):
        raise UsageError(f"probe {path}: {missing[0]} is no tile below {path.parent} ({len(missing)} such rows)")
    source = replace(source.select([i for i, key in enumerate(source.keys) if key in table]), name=path.stem)
    column = next((name for name in (*_UNITS, "group") if name in next(iter(table.values()))), None)
    if column and (bare := [name for name, row in table.items() if not row.get(column)]):
        raise UsageError(f"probe {path}: {bare[0]} has no {column}; name it for every tile, or leave the column out")
    labels = {key: table[key]["label"] for key in source.keys}
    return Labelled(source, labels, {key: table[key][column] for key in source.keys} if column else None)


def _rows(path: Path) -> dict[str, dict[str, str]]:
    """Return a table's rows by the tile they are of; every tile stands in it once, with a label."""
    try:
        columns, rows = read_sheet(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"probe {path}: cannot be read ({error})") from None
    if not rows or not {"path", "label"} <= set(columns):
        present = ", ".join(columns) if rows else "no rows"
        raise UsageError(f"probe {path}: needs columns path and label; found {present}")
    table = {row["path"].replace("\\", "/").removeprefix("./"): row for row in rows}
    if len(table) < len(rows):
        names = [row["path"] for row in rows]
        twice = next(name for name in names if names.count(name) > 1 or name not in table)
        raise UsageError(f"probe {path}: {twice} stands in it twice; a tile has one label")
    if bare := [name for name, row in table.items() if not row["label"]]:
        raise UsageError(f"probe {path}: {bare[0] or 'a row'} has no label")
    return table
