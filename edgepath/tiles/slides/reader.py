"""A whole slide read region by region, whatever scanner made it: OpenSlide, and wsidicom for DICOM that it refuses."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import SlideError, TileError, first_line
from ...machine.packages import require, version_of
from .formats import Handle, main_file, open_handle
from .formats import Level as Level
from .formats import Metadata as Metadata

SUFFIXES = (
    *(".svs", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif", ".czi", ".dcm"),
    *(".tif", ".tiff", ".btf"),
)
LARGEST_TILE = 1024
"""A TIFF of no scanner, of one level and no larger than this, is a tile and no slide."""
_LONGEST, _MOST_PIXELS = 1 << 20, 1 << 38  # of any slide of glass at 0.1 um; more is a damaged header
_HEADER_BYTES = 1 << 20
_SAMPLED = 64  # pixels, the side of a region that tells slides apart
_MOST_KEPT = 1 << 24  # pixels, of a small slide that is decoded once: 50 MB
_BAND = 512  # rows that are decoded at a time to be kept
_READERS = 2  # threads


@dataclass
class _Shared:
    """A handle, how many threads read from it, and whether it is closed as soon as none does."""

    handle: Handle
    readers: int = 0
    spent: bool = False


class SlideReader:
    """An open slide, read from any number of threads. Use it in a `with` block.

    A region that cannot be decoded raises TileError and costs no other: OpenSlide answers every call after an error
    with the same error, so its handle is opened again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock, self._closed = threading.Lock(), False
        self._kept: np.ndarray | None = None
        handle, self._open = open_handle(path)
        self._shared = _Shared(handle)
        self.metadata: Metadata = self._shared.handle.metadata
        if max(self.width, self.height) > _LONGEST or self.width * self.height > _MOST_PIXELS:
            self.__exit__()
            raise SlideError(
                f"slide {path}: it says {self.width} x {self.height} pixels, more than a slide of glass has"
            )

    @property
    def width(self) -> int:
        """Pixels of the finest level in x."""
        return self.metadata.levels[0].width

    @property
    def height(self) -> int:
        """Pixels of the finest level in y."""
        return self.metadata.levels[0].height

    def read(self, x: int, y: int, level: int, width: int, height: int) -> np.ndarray:
        """Return `width` x `height` pixels of a level, uint8 (height, width, 3), over white.

        (x, y) is the top left corner in pixels of the finest level; where that is between two pixels of a coarser
        level, OpenSlide interpolates. Raises TileError for what cannot be decoded, ValueError when closed.
        """
        kept = self._kept
        if kept is not None and level == 0 and 0 <= x <= self.width - width and 0 <= y <= self.height - height:
            return kept[y : y + height, x : x + width]
        region = (x, y, level, width, height)
        try:
            return self._read_shared(region)
        except (MemoryError, _Closed):
            raise
        except Exception:  # decoders raise nearly every type there is
            # It may be another thread's error that this one was answered with: what fails alone, too, is its own.
            return self._read_alone(region)

    def keep(self) -> None:
        """Decode a small slide of one level once, and keep its pixels: tissue is looked for in all of it anyway.

        One that is larger, or cannot be decoded whole, is read region by region as before.
        """
        if len(self.metadata.levels) > 1 or self.width * self.height > _MOST_KEPT:
            return
        pixels = np.empty((self.height, self.width, 3), np.uint8)

        def fill(top: int) -> None:
            rows = min(_BAND, self.height - top)
            pixels[top : top + rows] = self.read(0, top, 0, self.width, rows)

        try:
            with ThreadPoolExecutor(_READERS, thread_name_prefix="edgepath-slide") as pool:
                list(pool.map(fill, range(0, self.height, _BAND)))
        except TileError:
            return
        pixels.flags.writeable = False  # regions are views of it
        self._kept = pixels

    def identity(self) -> dict[str, Any]:
        """Return what tells this slide from others without reading all of it: size, start, and pixels here and there.

        A region that cannot be decoded counts as that.
        """
        with open(main_file(self.path), "rb") as file:
            start = hashlib.sha256(file.read(_HEADER_BYTES)).hexdigest()
            size = file.seek(0, 2)
        pixels = hashlib.sha256()
        for part in range(9):
            x, y = self.width * (2 * (part % 3) + 1) // 6, self.height * (2 * (part // 3) + 1) // 6
            try:
                pixels.update(self.read(x, y, 0, _SAMPLED, _SAMPLED).tobytes())
            except TileError:
                pixels.update(b"not decoded")
        return {
            "size_bytes": size,
            "header_sha256": start,
            "pixels_sha256": pixels.hexdigest(),
            "width": self.width,
            "height": self.height,
        }

    def __enter__(self) -> SlideReader:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed, self._kept, shared = True, None, self._shared
            if not shared.spent and not shared.readers:
                shared.handle.close()
            shared.spent = True

    def _read_shared(self, region: tuple[int, int, int, int, int]) -> np.ndarray:
        shared = self._take()
        try:
            pixels = shared.handle.read(*region)
        except BaseException:
            self._give_back(shared, spent=True)
            raise
        self._give_back(shared)
        return pixels

    def _read_alone(self, region: tuple[int, int, int, int, int]) -> np.ndarray:
        try:
            handle = self._open()
            try:
                return handle.read(*region)
            finally:
                handle.close()
        except MemoryError:
            raise
        except Exception as error:
            where = f"{self.path.name} at ({region[0]}, {region[1]})"
            raise TileError(f"{where}: cannot be decoded ({first_line(error)})") from error

    def _take(self) -> _Shared:
        """Return the handle that all threads read from, a new one where an error spent the last."""
        with self._lock:
            if self._closed:
                raise _Closed(f"slide {self.path.name} is closed")
            if self._shared.spent:
                self._shared = _Shared(self._open())
            self._shared.readers += 1
            return self._shared

    def _give_back(self, shared: _Shared, spent: bool = False) -> None:
        """Let a handle go; the last of its readers closes one that is spent."""
        with self._lock:
            shared.readers -= 1
            shared.spent |= spent
            if shared.spent and not shared.readers:
                shared.handle.close()


class _Closed(ValueError):
    """Read after the slide was closed: a mistake in a program, no damage to a file."""


def open_slide(path: str | Path) -> SlideReader:
    """Open a whole slide. Raises SlideError in one line for what is none, MissingRuntime without the extra `slides`."""
    require("openslide-python", "slides")
    path = Path(path)
    if not path.exists():
        raise SlideError(f"slide {path}: no such file or folder")
    return SlideReader(path)


def is_slide(path: Path) -> bool:
    """Tell by its content whether a file, or a folder of DICOM, is a slide, and not one tile.

    Raises MissingRuntime for a scanner's file without the extra `slides`; a TIFF is then taken for a tile.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return any(path.glob("*.dcm"))
    if suffix not in SUFFIXES or not path.is_file():
        return False
    if suffix in (".tif", ".tiff") and version_of("openslide-python") is None:
        return False
    require("openslide-python", "slides")
    return suffix == ".dcm" or _known(path)


def _known(path: Path) -> bool:
    import openslide

    vendor = openslide.OpenSlide.detect_format(path)
    if vendor != "generic-tiff":
        return vendor is not None
    try:
        with openslide.OpenSlide(path) as slide:
            return slide.level_count > 1 or max(slide.dimensions) > LARGEST_TILE
    except openslide.OpenSlideError:
        return False
