"""How a calibration pack lies on disk, and reading it back.

    pack.toml    schema, name, count, size, seed, what it was selected from, and the sha256 of tiles.csv
    tiles.csv    a line a tile: path, sha256 of its pixels, and what is known of it
    tiles/       the tiles: 00000.png, 00001.png, ..., one source after the other, in the order of their names there

The columns of tiles.csv are explained in calibration/README.md.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from ..errors import PackError
from ..machine.leftovers import is_leftover
from ..machine.sheets import as_text
from ..machine.tables import parse_toml, read_facts, shown
from ..machine.tables import to_toml as write_toml
from .origins import COLUMNS, Row

SCHEMA = 1
LARGEST_SIDE = 4096  # of a tile, in pixels: what is decoded on the word of pack.toml
_LARGEST = 8 << 20  # of pack.toml, in bytes
TILE = re.compile(r"tiles/\d{5,9}\.png", re.ASCII)
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class PackInfo:
    """What a pack is: `count` tiles of `size` x `size`; `sha256` is of tiles.csv, and so of every pixel."""

    path: Path
    name: str
    count: int
    size: int
    seed: int
    sha256: str
    sources: tuple[Mapping[str, object], ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"path": str(self.path), "sources": [dict(source) for source in self.sources]}


@dataclass(frozen=True)
class PackHead:
    """What pack.toml has to say; what else stands there is for people."""

    name: str
    count: int
    size: Annotated[int, Meta(ge=1, le=LARGEST_SIDE, description=f"1 to {LARGEST_SIDE} is needed")]
    seed: int
    sha256: str
    source: tuple[dict[str, object], ...]


def read_pack(folder: str | Path) -> tuple[PackInfo, list[Row]]:
    """Return what a pack is and the lines of its tiles.csv, whose hash and form are checked; no tile is looked at."""
    folder = Path(folder)
    who = f"pack {folder}"
    try:
        head = parse_pack_toml(read_file(folder, "pack.toml"), who)
        table = read_file(folder, "tiles.csv")
    except OSError as error:
        raise PackError(f"{who}: cannot be read ({error.strerror}: {error.filename})") from error
    if (digest := hashlib.sha256(table).hexdigest()) != head.sha256:
        difference = f"sha256 {digest[:12]}, pack.toml says {head.sha256[:12]}"
        raise PackError(f"{who}: tiles.csv was altered ({difference}); copy the pack again")
    rows = _rows(table, who)
    if len(rows) != head.count:
        raise PackError(f"{who}: tiles.csv lists {len(rows)} tiles, pack.toml says {head.count}; build it again")
    return PackInfo(folder, head.name, head.count, head.size, head.seed, head.sha256, head.source), rows


def pack_table(rows: Sequence[Row]) -> bytes:
    """Write tiles.csv."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: as_text(value) for column, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _rows(table: bytes, who: str) -> list[Row]:
    try:
        reader = csv.DictReader(io.StringIO(table.decode(), newline=""), strict=True)
        rows = list(reader)
    except (ValueError, csv.Error) as error:
        raise PackError(f"{who}: tiles.csv cannot be read ({error}); build the pack again") from None
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise PackError(f"{who}: tiles.csv has the columns {reader.fieldnames}; needed are {', '.join(COLUMNS)}")
    for number, row in enumerate(rows, 1):
        complete = None not in row and None not in row.values()
        if not complete or not TILE.fullmatch(row["path"]) or not _SHA256.fullmatch(row["sha256_pixels"]):
            needed = f"a path tiles/NNNNN.png, a sha256, {len(COLUMNS)} fields"
            raise PackError(f"{who}: tiles.csv, tile {number}: needs {needed}; build the pack again")
    if len({row["path"] for row in rows}) < len(rows):
        raise PackError(f"{who}: tiles.csv lists a path twice; build the pack again")
    return rows


def parse_pack_toml(raw: bytes, who: str) -> PackHead:
    """Return the contents of pack.toml; PackError unless all that is needed is there."""
    if len(raw) > _LARGEST:
        raise PackError(f"{who}: pack.toml has more than {_LARGEST} bytes; that is no pack's: build it again")
    try:
        head = parse_toml(raw.decode())
    except ValueError as error:
        raise PackError(f"{who}: pack.toml is not valid TOML ({error})") from None
    schema = head.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        newer = "; a newer edgepath wrote it: update" if isinstance(schema, int) and schema > SCHEMA else ""
        raise PackError(f"{who}: schema = {shown(schema)}; this edgepath reads schema {SCHEMA}{newer}")
    return read_facts(PackHead, head, lambda problem: PackError(f"{who}: pack.toml: {problem}"), {})


def to_toml(head: Mapping[str, object], sources: Sequence[Mapping[str, object]]) -> bytes:
    """Write pack.toml."""
    return write_toml({**head, "source": sources}).encode()


def read_file(folder: Path, name: str) -> bytes:
    """Return what is in pack.toml or tiles.csv; PackError for a folder that is no pack."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "no such folder"
        raise PackError(f"pack {folder}: {what}; give the folder that holds pack.toml")
    if not os.path.lexists(folder / name):
        raise PackError(f"pack {folder}: holds no {name}; give a folder made by `edgepath pack build`")
    if (folder / name).is_symlink() or not (folder / name).is_file():
        raise PackError(f"pack {folder}: {name} is not a regular file; copy the pack again")
    return (folder / name).read_bytes()


def pack_files(folder: Path) -> Iterator[str]:
    """Yield the names of a pack's files, without leftovers of systems; PackError for a link, socket, pipe or device."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(map(is_leftover, path.relative_to(folder).parts)):
            continue
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise PackError(f"pack {folder}: {name} is not a regular file; a pack holds files only: copy it again")
        if path.is_file():
            yield name
