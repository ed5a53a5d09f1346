"""Where a tile came from, as far as its source tells: a table beside the tiles, its folder, its name.

A folder may hold a `tiles.csv` (a pack does) or a `manifest.csv`, with a column `path` (below that folder) and any of
the columns in `_ALSO`. What no table says is taken from the name: `slide1_x1120_y224.png` is of slide1, at (1120, 224).
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path
from typing import TypedDict, cast

from ..errors import PackError
from ..machine.sheets import read_sheet
from .source import TileSource

_LOG = logging.getLogger("edgepath")
COLUMNS = (
    *("path", "sha256_pixels", "source", "source_path", "group", "slide"),
    *("x", "y", "mpp", "staining", "scanner", "label", "licence"),
)
"""The columns of a pack's tiles.csv; what is not known is empty."""

TABLES = ("tiles.csv", "manifest.csv")
"""Files beside tiles that tell of them; the first that is there is read."""
_ALSO = {  # the names a column may have in a table that edgepath did not write
    "group": ("group",),
    "slide": ("slide", "slide_id"),
    "x": ("x",),
    "y": ("y",),
    "mpp": ("mpp",),
    "staining": ("staining", "stain"),
    "scanner": ("scanner",),
    "label": ("label",),
    "licence": ("licence", "license"),
}
_PLACE = re.compile(r"(?:(?P<slide>.+)[_-])?x(?P<x>\d+)[_-]y(?P<y>\d+)", re.ASCII | re.IGNORECASE)
_SCALE = re.compile(r"([\d.]+) ?mpp", re.ASCII)

Row = dict[str, str]


def origins(source: TileSource) -> dict[str, Row]:
    """Return a row with all of `COLUMNS` for each key of a source; a tile in no known group is in that of its folder.

    Raises PackError for a table that cannot be read, or that is about other tiles.
    """
    if source.kind == "synthetic":
        return {key: _synthetic(key) for key in source.keys}
    if source.kind == "slides":
        mpp = str(cast(dict[str, float], source.origin["slides"])["mpp"])
        return {key: _cut(key, mpp) for key in source.keys}
    table = table_beside(source)
    return {key: _row(key, table.get(key, {})) for key in source.keys}


class Dataset(TypedDict):
    """Where tiles come from, by the table beside them: its source or group, how many tiles, and their licence."""

    name: str
    licence: str
    tiles: int


def datasets(source: TileSource) -> list[Dataset]:
    """Return whose tiles a source holds and under which licence, where the table beside them says it, by name.

    A table that cannot be read, or is of other tiles, is no reason not to use them: it is said, and nothing returned.
    """
    try:
        table = table_beside(source)
    except PackError as error:
        _LOG.warning("licences of tiles are not known: %s", error)
        return []
    rows = [(table.get(key, {}), _row(key, table.get(key, {}))) for key in source.keys]
    count = Counter(
        (columns.get("source") or row["group"] or source.name, row["licence"])
        for columns, row in rows
        if row["licence"]
    )
    return [{"name": name, "licence": licence, "tiles": tiles} for (name, licence), tiles in sorted(count.items())]


def group_of(row: Row) -> tuple[str, ...]:
    """Return the groups of a tile, from the widest to the narrowest."""
    return (row["source"], row["group"], row["staining"], row["scanner"], row["label"], row["slide"])


def _row(key: str, columns: Row) -> Row:
    row = dict.fromkeys(COLUMNS, "")
    for column, names in _ALSO.items():
        row[column] = next((columns[name] for name in names if columns.get(name)), "")
    if place := _PLACE.fullmatch(Path(key).stem):
        row |= {name: value for name, value in place.groupdict("").items() if not row[name]}
    if not row["mpp"] and (scale := _SCALE.search(columns.get("mag", ""))):
        row["mpp"] = scale[1]
    if not any(row[column] for column in ("group", "staining", "scanner", "label")):
        row["group"] = key.rpartition("/")[0]
    return row


def _synthetic(key: str) -> Row:
    _, staining, scanner = key.rsplit("_", 2)
    known = {"mpp": "0.5", "staining": staining, "scanner": scanner, "licence": "Apache-2.0"}
    return dict.fromkeys(COLUMNS, "") | known


def _cut(key: str, mpp: str) -> Row:
    """Return the row of a tile cut from a slide, `<slide>/<x>_<y>`."""
    slide, _, place = key.rpartition("/")
    x, _, y = place.partition("_")
    return dict.fromkeys(COLUMNS, "") | {"group": slide, "slide": slide, "x": x, "y": y, "mpp": mpp}


def table_beside(source: TileSource) -> dict[str, Row]:
    """Read the table beside a source's tiles, by path; column names in lower case; empty where there is none."""
    if source.root is None:
        return {}
    path = next((source.root / name for name in TABLES if (source.root / name).is_file()), None)
    if path is None:
        return {}
    try:
        header, rows = read_sheet(path)
    except (OSError, ValueError) as error:
        raise PackError(f"{path}: cannot be read ({error}); mend it, or move it away") from error
    if "path" not in header:
        raise PackError(f"{path}: has no column path (found: {', '.join(header)}); name it so, or move the file away")
    table = {row["path"].replace("\\", "/").removeprefix("./"): row for row in rows if row.get("path")}
    if not table.keys() & set(source.keys):
        raise PackError(
            f"{path}: names none of the tiles; paths are needed as below that folder, like {source.keys[0]}"
        )
    return table
