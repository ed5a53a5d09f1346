"""Which slides to embed, each with an id that names its files."""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SlideError, UsageError
from ..tiles.slides.reader import is_slide
from ..tiles.slides.source import SCANNER_SUFFIXES
from ..tiles.slides.synthetic import synthetic_slides

_log = logging.getLogger(__name__)
_COLUMNS = ("slide", "id", "mpp", "mask")


@dataclass(frozen=True)
class Entry:
    """A slide to embed; `mpp` is its um per pixel and `mask` its tissue, where a manifest says so."""

    id: str
    path: Path
    mpp: float | None = None
    mask: str | None = None


def list_slides(sources: Sequence[str | Path]) -> list[Entry]:
    """Return the slides of files, folders, manifests (`.csv`) and `synthetic:N[:SEED]`, sorted by id.

    The id of a file in a folder is its path below that folder, without suffix, `/` written as `__`. Raises SlideError
    for what is no slide, or where two slides have one id.
    """
    entries = [entry for source in sources for entry in _of(source)]
    if not entries:
        raise SlideError(f"slides {', '.join(map(str, sources))}: no whole slides; tiles are for `edgepath embed`")
    for name, count in Counter(entry.id for entry in entries).items():
        if count > 1:
            paths = [str(entry.path) for entry in entries if entry.id == name]
            raise SlideError(f"slides: {paths[0]} and {paths[1]} have one id, {name}; give ids in a manifest.csv")
    return sorted(entries, key=lambda entry: entry.id)


def shard(entries: Sequence[Entry], part: str) -> list[Entry]:
    """Return the slides of part `i/n`, i from 1 to n: told by a hash of the id, so that other slides change nothing."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {part}: give I/N, I from 1 to N")
    index, count = int(match[1]) - 1, int(match[2])
    return [entry for entry in entries if int(hashlib.sha256(entry.id.encode()).hexdigest(), 16) % count == index]


def _of(source: str | Path) -> Iterator[Entry]:
    text, path = str(source), Path(source)
    if text.split(":")[0] == "synthetic" and not path.exists():
        yield from _synthetic(text)
    elif not path.exists():
        raise SlideError(f"slides {path}: no such file or folder; give slides, a folder of them, or a manifest.csv")
    elif path.suffix.lower() == ".csv":
        yield from _manifest(path)
    elif path.is_dir() and not is_slide(path):
        left_out = []
        for file in sorted(path.rglob("*")):
            if any(part.startswith(".") for part in file.relative_to(path).parts):
                continue
            if _is_one(file):
                yield Entry("__".join(file.relative_to(path).with_suffix("").parts), file)
            elif file.suffix.lower() in (".tif", ".tiff"):
                left_out.append(file.name)
        if left_out:
            names = f"{', '.join(left_out[:3])}{', ...' if len(left_out) > 3 else ''}"
            _log.warning("slides %s: TIFF files that are no slides are left out: %d (%s)", path, len(left_out), names)
    else:
        yield Entry(path.stem, path)  # what it is, is said when it is opened


def _is_one(file: Path) -> bool:
    """Tell whether a file or a folder of DICOM is a slide of its own, or has a scanner's name and has to be one."""
    if file.suffix.lower() == ".dcm" and file.is_file():
        return False
    return is_slide(file) or (file.suffix.lower() in SCANNER_SUFFIXES and file.is_file())


def _synthetic(source: str) -> Iterator[Entry]:
    match = re.fullmatch(r"synthetic(?::(\d{1,9}))?(?::(\d{1,9}))?", source)
    if not match:
        raise UsageError(f"slides {source}: give synthetic:COUNT or synthetic:COUNT:SEED")
    for path in synthetic_slides(int(match[1] or 4), int(match[2] or 0)):
        yield Entry(path.stem, path)


def _manifest(path: Path) -> Iterator[Entry]:
    """Read a table with a column `slide` and perhaps `id`, `mpp` and `mask`; paths are relative to its folder."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SlideError(f"manifest {path}: cannot be read as UTF-8 ({error})") from None
    first = text.splitlines()[0] if text.strip() else ""
    rows = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=first.count), restkey="more", strict=True)
    try:
        columns = [(name or "").strip().lower() for name in rows.fieldnames or ()]
    except csv.Error as error:
        raise SlideError(f"manifest {path}: line 1: {error}") from None
    if "slide" not in columns or len(set(columns)) < len(columns):
        raise SlideError(
            f"manifest {path}: columns {', '.join(columns) or 'none'}; slide is needed, once; known: "
            f"{', '.join(_COLUMNS)}"
        )
    rows.fieldnames = columns
    try:
        for line, row in enumerate(rows, 2):
            yield _entry(
                path,
                line,
                {name: (value or "").strip() for name, value in row.items() if name != "more"},
                "more" in row,
            )
    except csv.Error as error:
        raise SlideError(f"manifest {path}: line {rows.line_num}: {error}") from None


def _entry(manifest: Path, line: int, row: dict[str, str], too_long: bool) -> Entry:
    who = f"manifest {manifest}: line {line}"
    if too_long:
        raise SlideError(f"{who}: has more values than there are columns; put names with separators in quotes")
    file = manifest.parent / row["slide"]
    if not row["slide"] or not os.path.exists(file):  # a name may be too long to be asked for
        raise SlideError(f"{who}: slide {row['slide']!r} is not there; paths are relative to the manifest's folder")
    mask = row.get("mask") or None
    if mask and not os.path.isfile(manifest.parent / mask):
        raise SlideError(f"{who}: mask {mask!r} is not there; paths are relative to the manifest's folder")
    name = row.get("id") or file.stem
    if not re.fullmatch(r"[\w. +=@#()-]+", name) or name.startswith("."):
        raise SlideError(f"{who}: id {name!r} names files: use letters, digits, spaces and . _ - + = @ # ( )")
    try:
        mpp = float(row["mpp"].replace(",", ".")) if row.get("mpp") else None
    except ValueError:
        raise SlideError(f"{who}: mpp {row['mpp']!r}; give um per pixel, such as 0.25") from None
    return Entry(name, file, mpp, None if mask is None else str((manifest.parent / mask).resolve()))
