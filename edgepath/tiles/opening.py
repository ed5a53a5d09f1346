"""Where tiles come from: folders, lists of files, calibration packs and the synthetic source, all as batches of uint8.

A folder is searched recursively for PNG, JPEG and TIFF files, links followed; names that start with a dot (`._a.png`)
are left out. A tile's key is its path below the folder, with `/`; tiles come in the order of their keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import PackError, TileError, UsageError
from .images import SUFFIXES, check_resize, read_image, resize_tile, tile_sha256
from .source import TileSource

SYNTHETIC = 160  # tiles of "synthetic": 128 to calibrate on and 32 held out
MOST_SYNTHETIC = 1_000_000  # each tile has a key in memory


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
    from .packformat import read_pack  # packs are built from tiles: one of the two has to come later

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
    from .synthetic import look_of, synthesize

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
