"""Slides as a source of tiles: cut as they are asked for, so that whatever takes a folder of tiles takes slides."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import EdgepathError, SlideError, TileError, UsageError
from ..formats import SUFFIXES as IMAGES
from ..source import TileSource
from .cutting import CutSettings, cut, read_tile
from .reader import SUFFIXES, SlideReader, is_slide, open_slide
from .scale import Scale

_log = logging.getLogger(__name__)
SCANNER_SUFFIXES = frozenset(SUFFIXES) - frozenset(IMAGES)
"""Names that only slides have: a file that is none is damaged, and is not passed over."""
_OPEN = 4  # slides open at a time; tiles come slide by slide


def find_slides(sources: Sequence[Path]) -> list[Path]:
    """Return the slides among files and below folders, sorted; a folder of DICOM is one slide.

    None where there are only tiles. Raises UsageError where there are both: one of them would be left out.
    """
    slides: list[Path] = []
    tiles: list[Path] = []
    for source in sources:
        for path in _files_below(source):
            # What only has a scanner's suffix is refused by its name when it is opened, not passed over.
            kind = slides if is_slide(path) or (path.is_file() and path.suffix.lower() in SCANNER_SUFFIXES) else tiles
            kind.append(path)
    images = [path for path in tiles if path.suffix.lower() in IMAGES]
    if slides and images:
        raise UsageError(
            f"tiles {sources[0]}: slides ({len(slides)}, {min(slides).name}) and single images ({len(images)}, "
            f"{min(images).name}) together; give a folder of slides, or one of tiles"
        )
    return sorted(slides)


def open_slides(
    slides: Sequence[Path], name: str, *, size: int = 224, mpp: float = 0.5, resize: str = "refuse", skip_bad: bool
) -> TileSource:
    """Return the tiles of slides with tissue on them, of `mpp` um a pixel, keys `<slide>/<x>_<y>`, slide by slide.

    (x, y) is the top left corner in pixels of the slide's finest level. With `skip_bad`, slides that cannot be cut are
    left out and listed in `skipped`. Raises SlideError for one that cannot, TileError where none has tissue.
    """
    settings = CutSettings(size=size, mpp=mpp)
    known: dict[str, _Place] = {}
    keys: list[str] = []
    bad: dict[str, str] = {}
    for slide, path in zip(_names(slides), slides, strict=True):
        try:
            with cut(path, settings) as opened:
                known[slide] = _Place(path, opened.scale)
                keys += [f"{slide}/{x}_{y}" for x, y in opened.coords.tolist()]
        except (SlideError, TileError) as error:
            if not skip_bad:
                raise
            bad[slide] = str(error)
            continue
        for caution in known[slide].scale.cautions:
            _log.warning("slide %s: %s", path.name, caution)
    if not keys:
        why = next(iter(bad.values()), "no tissue was found on them")
        raise TileError(f"tiles {name}: {len(slides)} slides, and no tile of them ({why})")
    shelf = _Shelf(known)

    def load(key: str) -> np.ndarray:
        slide, _, place = key.rpartition("/")
        x, y = map(int, place.split("_"))
        with shelf.lent(slide) as opened:
            return read_tile(opened, known[slide].scale, x, y)

    origin = {"slides": {"count": len(known), "mpp": mpp}}
    return TileSource("slides", name, tuple(keys), size, load, resize, skip_bad, origin=origin, _bad=bad)


@dataclass(frozen=True)
class _Place:
    path: Path
    scale: Scale


class _Shelf:
    """Slides that are open: opened when a thread asks for one, closed when no thread reads it and others are wanted."""

    def __init__(self, known: dict[str, _Place]) -> None:
        self._known, self._lock = known, threading.Lock()
        self._open: dict[str, SlideReader] = {}
        self._readers: dict[str, int] = {}

    @contextmanager
    def lent(self, slide: str) -> Iterator[SlideReader]:
        with self._lock:
            reader = self._open.pop(slide, None) or self._opened(slide)
            self._open[slide] = reader  # the last one asked for is the last to be closed
            self._readers[slide] = self._readers.get(slide, 0) + 1
        try:
            yield reader
        finally:
            with self._lock:
                self._readers[slide] -= 1
                unread = [name for name in self._open if not self._readers[name]]
                for name in unread[: max(0, len(self._open) - _OPEN)]:
                    self._open.pop(name).__exit__()

    def _opened(self, slide: str) -> SlideReader:
        try:
            return open_slide(self._known[slide].path)
        except EdgepathError as error:  # moved or unmounted since it was cut
            raise TileError(str(error)) from None


def _files_below(source: Path) -> Iterator[Path]:
    """Yield files with a suffix of slides or images, and folders of DICOM for the files in them; links are followed."""
    if not source.is_dir():
        yield source
        return

    def refuse(error: OSError) -> None:
        raise TileError(f"tiles {source}: cannot be searched ({error.strerror}: {error.filename})") from error

    seen: set[str] = set()
    for folder, folders, names in os.walk(source, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if is_slide(Path(folder)):
            yield Path(folder)
            names = [name for name in names if not name.lower().endswith(".dcm")]
        for name in names:
            if not name.startswith(".") and name.lower().endswith((*SUFFIXES, *IMAGES)):
                yield Path(folder, name)


def _names(slides: Sequence[Path]) -> list[str]:
    """Name slides by their files; those of one name by their paths below the folder that all share."""
    root = Path(os.path.commonpath([path.parent for path in slides])) if slides else Path()
    stems = [path.name if path.is_dir() else path.stem for path in slides]
    below = [path.relative_to(root).as_posix() for path in slides]
    for name in below:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise TileError(f"tiles {root}: the name {name!r} is not valid UTF-8; rename the file") from None
    return [stem if stems.count(stem) == 1 else long for stem, long in zip(stems, below, strict=True)]
