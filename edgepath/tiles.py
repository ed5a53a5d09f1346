"""Where tiles come from: folders, lists of files, calibration packs and the synthetic source, all as batches of uint8.

A folder is searched recursively for PNG, JPEG and TIFF files, links followed; names that start with a dot (`._a.png`)
are left out. A tile's key is its path below the folder, with `/`; tiles come in the order of their keys.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import PackError, TileError, UsageError
from .images import SUFFIXES, check_resize, read_image, resize_tile, tile_sha256

SYNTHETIC = 160  # tiles of "synthetic": 128 to calibrate on and 32 held out
MOST_SYNTHETIC = 1_000_000  # each tile has a key in memory


@dataclass(frozen=True)
class TileBatch:
    """Some tiles in order: their keys, and their pixels as uint8 (N, S, S, 3)."""

    keys: tuple[str, ...]
    pixels: np.ndarray


@dataclass
class TileSource:
    """Tiles of `size` x `size`, decoded when they are asked for; `len()` counts also those that turn out to be bad.

    `load` returns one tile, uint8 (S, S, 3), by its key. `root` is the folder that the keys are relative to, where
    there is one, and never leaves this machine: `provenance()` does not hold it.
    """

    kind: str
    name: str
    keys: tuple[str, ...]
    size: int
    load: Callable[[str], np.ndarray]
    resize: str = "refuse"
    skip_bad: bool = False
    root: Path | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    _bad: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(set(self.keys)) == len(self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Return (key, reason) of the tiles left out so far, with `skip_bad`."""
        return sorted(self._bad.items())

    def select(self, indices: Sequence[int]) -> TileSource:
        """Return some of the tiles, in the order of `indices`; what is known of their pixels is kept."""
        return replace(self, keys=tuple(self.keys[i] for i in indices), _bad={})

    def batches(self, size: int = 16, *, threads: int | None = None) -> Iterator[TileBatch]:
        """Yield all tiles in order, `size` at a time; `threads` decode ahead (default: one a core, at most 8).

        At most a batch and twice `threads` tiles are held. Raises TileError naming the first tile that cannot be read
        or that changed since it was read before; with `skip_bad`, only when no tile is left.
        """
        if size < 1:
            raise UsageError(f"batch size {size}; at least 1 is needed")
        return self._batches(size, threads or min(8, os.cpu_count() or 1))

    def read(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Return all tiles, or some, at once as uint8 (N, S, S, 3)."""
        chosen = self if indices is None else self.select(indices)
        parts = [batch.pixels for batch in chosen.batches(64)]
        self._bad.update(chosen._bad)
        return np.concatenate(parts) if parts else np.empty((0, self.size, self.size, 3), np.uint8)

    def provenance(self) -> dict[str, Any]:
        """Return what these tiles are, JSON-able: kind, name, count, `sha256` over the lines `<tile sha256>  <key>`.

        Decodes tiles that were not decoded before. Tiles that were skipped count as not there.
        """
        if any(key not in self.digests for key in self.keys):
            for _ in self.batches():
                pass
        good = [key for key in self.keys if key in self.digests]
        lines = "".join(f"{self.digests[key]}  {key}\n" for key in good)
        return {
            "kind": self.kind,
            "name": self.name,
            "count": len(good),
            "sha256": hashlib.sha256(lines.encode()).hexdigest(),
            "size": self.size,
            "resize": self.resize,
            "skipped": len(self.keys) - len(good),
        } | dict(self.origin)

    def _batches(self, size: int, threads: int) -> Iterator[TileBatch]:
        keys: list[str] = []
        tiles: list[np.ndarray] = []
        any_good = not self.keys
        for key, tile in self._decoded(threads):
            if isinstance(tile, TileError):
                self._bad[key] = str(tile).removeprefix(f"{self.root}{os.sep}{key}: ")
                continue
            any_good = True
            keys.append(key)
            tiles.append(tile)
            if len(keys) == size:
                yield TileBatch(tuple(keys), np.stack(tiles))
                keys, tiles = [], []
        if keys:
            yield TileBatch(tuple(keys), np.stack(tiles))
        if not any_good:
            key, reason = self.skipped[0]
            raise TileError(f"{self.name}: none of its {len(self)} tiles can be read (the first is {key}: {reason})")

    def _decoded(self, threads: int) -> Iterator[tuple[str, np.ndarray | TileError]]:
        """Yield every tile in order; `deque` and its limit keep the order and the memory bounded."""
        pending: deque[tuple[str, Future[np.ndarray | TileError]]] = deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="edgepath-tiles")
        try:
            for key in self.keys:
                pending.append((key, pool.submit(self._tile, key)))
                if len(pending) >= 2 * threads:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _tile(self, key: str) -> np.ndarray | TileError:
        try:
            tile = self.load(key)
        except TileError as error:
            if not self.skip_bad:
                raise
            return error
        digest = tile_sha256(tile)
        if self.digests.setdefault(key, digest) != digest:
            raise TileError(f"{self.name}: {key} changed since it was first read; run again")
        return tile


def open_tiles(
    source: str | Path | Sequence[str | Path],
    *,
    size: int = 224,
    resize: str = "refuse",
    skip_bad: bool = False,
) -> TileSource:
    """Open a folder, a calibration pack, tile files, or `synthetic[:COUNT[:SEED]]` (a folder so named: `./synthetic`).

    `resize` says what to do with tiles of another size than `size` x `size`: "refuse", "squash" or "crop". `skip_bad`
    leaves out tiles that cannot be read and lists them in `skipped`; a tile of a pack is never left out. Raises
    TileError, PackError or UsageError for what is not there, holds no tiles, or is not what its name says.
    """
    check_resize(resize)
    if not isinstance(source, (str, Path)):
        return _files([Path(path) for path in source], size, resize, skip_bad)
    if isinstance(source, str) and source.split(":")[0] == "synthetic":
        return _synthetic(source, size)
    if source == "":
        raise UsageError('tiles "": give a folder, a pack, tile files or synthetic')
    path = Path(source)
    if not path.exists():
        raise TileError(f"tiles {path}: no such file or folder")
    if (path / "pack.toml").is_file():
        return _pack(path, size, resize)
    if path.is_dir():
        return _folder(path, size, resize, skip_bad)
    if path.suffix.lower() not in SUFFIXES:
        raise TileError(f"tiles {path}: a file; give a folder of tiles, or PNG, JPEG or TIFF files")
    return _files([path], size, resize, skip_bad)


def _folder(root: Path, size: int, resize: str, skip_bad: bool) -> TileSource:
    keys = tuple(_scan(root))
    if not keys:
        raise TileError(f"tiles {root}: no PNG, JPEG or TIFF files below this folder; cut slides into tiles first")
    return _of_files("folder", root.resolve().name, root, keys, size, resize, skip_bad)


def _files(paths: Sequence[Path], size: int, resize: str, skip_bad: bool) -> TileSource:
    """Open files and folders together; keys are relative to the folder they share, so that equal names stay apart."""
    found: list[str] = []
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise TileError(f"tiles {path}: no such file or folder")
        if (path / "pack.toml").is_file():
            raise TileError(f"tiles {path}: a calibration pack, among other sources; give it alone")
        found += [os.path.abspath(path / key) for key in _scan(path)] if path.is_dir() else [os.path.abspath(path)]
    if not found:
        raise TileError("tiles: no PNG, JPEG or TIFF files were given; give a folder of tiles, or files")
    if twice := {path for path in found if found.count(path) > 1} if len(set(found)) < len(found) else None:
        raise TileError(f"tiles {min(twice)}: given more than once; give every tile once")
    root = Path(os.path.commonpath([os.path.dirname(path) for path in found]))
    keys = tuple(sorted(_key(Path(path), root) for path in found))
    return _of_files("files", f"{len(keys)} files", root, keys, size, resize, skip_bad)


def _of_files(
    kind: str, name: str, root: Path, keys: tuple[str, ...], size: int, resize: str, skip_bad: bool
) -> TileSource:
    def load(key: str) -> np.ndarray:
        return read_image(root / key, size, resize)

    return TileSource(kind, name, keys, size, load, resize, skip_bad, root)


def _pack(folder: Path, size: int, resize: str) -> TileSource:
    from .packs import read_pack  # packs are built from tiles: one of the two has to come later

    info, rows = read_pack(folder)
    hashes = {row["path"]: row["sha256_pixels"] for row in rows}
    if size != info.size and resize == "refuse":
        found = f"tiles of {info.size} x {info.size}, {size} x {size} are needed"
        raise TileError(f"pack {folder}: {found}; choose --resize crop or --resize squash")

    def load(key: str) -> np.ndarray:
        try:
            tile = read_image(folder / key, info.size)
        except TileError as error:
            raise PackError(f"pack {folder}: {key} was altered ({error}); copy the pack again") from None
        if tile_sha256(tile) != hashes[key]:
            raise PackError(f"pack {folder}: {key} was altered: its pixels have another hash; copy the pack again")
        return tile if size == info.size else resize_tile(tile, size, resize)

    origin = {"pack": {"name": info.name, "sha256": info.sha256, "count": info.count}}
    return TileSource("pack", info.name, tuple(hashes), size, load, resize, root=folder, origin=origin)


def _synthetic(source: str, size: int) -> TileSource:
    match = re.fullmatch(r"synthetic(?::(\d{1,9}))?(?::(\d{1,9}))?", source)
    count = int(match[1] or SYNTHETIC) if match else 0
    if not match or not 1 <= count <= MOST_SYNTHETIC:
        ways = f"synthetic, synthetic:COUNT or synthetic:COUNT:SEED, COUNT from 1 to {MOST_SYNTHETIC}"
        raise UsageError(f"tiles {source}: give {ways}")
    from .synthesis import look_of, synthesize

    seed = int(match[2] or 0)
    keys = tuple("_".join((f"synthetic/{seed}/{i:06d}", *look_of(i, seed))) for i in range(count))

    def load(key: str) -> np.ndarray:
        tile: np.ndarray = synthesize(1, seed=seed, start=int(key.split("/")[2].split("_")[0]), size=size)[0]
        return tile

    return TileSource("synthetic", "synthetic", keys, size, load, origin={"seed": seed})


def _scan(root: Path) -> list[str]:
    """List the keys of all image files below `root`, sorted."""
    try:
        found = list(_walk(root, ()))
    except OSError as error:
        raise TileError(f"tiles {root}: cannot be searched ({error.strerror}: {error.filename})") from error
    return sorted(_key(path, root) for path in found)


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Yield image files; `above` are the device and inode of the folders on the way here, to find a link back."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise TileError(f"tiles {folder}: a link back to a folder it lies in; remove the link")
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry):
            yield from _walk(entry, (*above, here))
        elif entry.suffix.lower() in SUFFIXES:
            yield entry


def _key(path: Path, root: Path) -> str:
    key = path.relative_to(root).as_posix()
    try:
        key.encode()
    except UnicodeEncodeError:
        raise TileError(f"tiles {root}: the name {key!r} is not valid UTF-8; rename the file") from None
    return key
