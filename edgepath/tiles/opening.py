"""Where tiles come from: folders, lists of files, calibration packs and the synthetic source, all as batches of uint8.

A folder is searched recursively for files with the suffix of an image, links followed. What lies there beside them is
counted by its kind, and said, but for leftovers of systems (`._a.png`, `Thumbs.db`, `@eaDir`). A tile's key is its path
below the folder, with `/`; tiles come in the order of their keys. Slides, told from tiles by their content, are cut
(`slides.source`).
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import PackError, TileError, UsageError, printable
from ..machine.leftovers import is_leftover
from .formats import KINDS, SUFFIXES, reader_of
from .images import check_resize, read_image, resize_tile, tile_sha256
from .origins import TABLES
from .slides.source import find_slides, open_slides
from .source import TileSource

_log = logging.getLogger(__name__)
SYNTHETIC = 160  # tiles of "synthetic": 128 to calibrate on and 32 held out
MOST_SYNTHETIC = 1_000_000  # each tile has a key in memory

_TAKEN = "give a folder of tiles or slides, a pack, tile files or synthetic"


def open_tiles(
    source: str | Path | Sequence[str | Path],
    *,
    size: int = 224,
    resize: str = "refuse",
    skip_bad: bool = False,
) -> TileSource:
    """Open tiles, as batches or one array of uint8 (N, S, S, 3), RGB.

    A folder that is named as the generator is given as `./synthetic`. Slides, folders of them and
    `synthetic-slide[:COUNT[:SEED]]` are cut into tiles of 0.5 um per pixel. Files in folders that are no tiles are
    counted in `left_out`, with a warning of Python's logging.

    Args:
        source: A folder, a calibration pack, tile files, slides, or `synthetic[:COUNT[:SEED]]`.
        size: Pixels of a tile's side, S.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        skip_bad: Leave out tiles that cannot be read, and list them in `skipped`. A tile of a pack is never left out.

    Returns:
        The tiles, sorted by path, decoded when they are read.

    Raises:
        TileError, PackError, UsageError: Nothing is there, it holds no tiles, or it is not what its name says.
    """
    check_resize(resize)
    if (slides := _slides(source)) is not None:
        paths, name = slides
        return open_slides(paths, name, size=size, resize=resize, skip_bad=skip_bad)
    if not isinstance(source, (str, Path)):
        return _files([Path(path) for path in source], size, resize, skip_bad)
    if isinstance(source, str) and source.split(":")[0] == "synthetic":
        return _synthetic(source, size)
    if source == "":
        raise UsageError('tiles "": give a folder, a pack, tile files or synthetic')
    path = Path(source)
    check_there(path)
    if (path / "pack.toml").is_file():
        return _pack(path, size, resize)
    if path.is_dir():
        return _folder(path, size, resize, skip_bad)
    if path.suffix.lower() not in SUFFIXES and not _is_image(path):
        raise TileError(f"tiles {path}: a file; give a folder of tiles, or {KINDS} files")
    return _files([path], size, resize, skip_bad)


def _is_image(path: Path) -> bool:
    if not path.is_file():  # reading a named pipe would wait for ever
        return False
    try:
        with open(path, "rb") as file:
            return reader_of(file) is not None
    except OSError:  # reading it will say so
        return True


def check_there(source: str | Path) -> None:
    """Raise TileError where a source is a path and nothing is there; a link that leads nowhere is a tile for later."""
    drawn = isinstance(source, str) and source.split(":")[0] in ("synthetic", "synthetic-slide")
    if not drawn and not os.path.lexists(source):
        raise TileError(f"tiles {source}: no such file or folder; {_TAKEN}")


def _slides(source: str | Path | Sequence[str | Path]) -> tuple[list[Path], str] | None:
    """Return the slides that a source is, and its name; None for tiles."""
    if isinstance(source, str) and source.split(":")[0] == "synthetic-slide":
        from .slides.synthetic import synthetic_slides

        match = re.fullmatch(r"synthetic-slide(?::(\d{1,9}))?(?::(\d{1,9}))?", source)
        if not match:
            raise UsageError(
                f"tiles {source}: give synthetic-slide, synthetic-slide:COUNT or synthetic-slide:COUNT:SEED"
            )
        return synthetic_slides(int(match[1] or 1), int(match[2] or 0)), "synthetic-slide"
    if source == "" or (isinstance(source, str) and source.split(":")[0] == "synthetic"):
        return None
    paths = [Path(source)] if isinstance(source, (str, Path)) else [Path(path) for path in source]
    if any((path / "pack.toml").is_file() for path in paths):
        return None
    slides = find_slides(paths)
    name = f"{len(slides)} slides" if len(paths) > 1 else paths[0].resolve().name if paths else ""
    return (slides, name) if slides else None


def _folder(root: Path, size: int, resize: str, skip_bad: bool) -> TileSource:
    left_out: Counter[str] = Counter()
    keys = tuple(_scan(root, left_out))
    if not keys:
        others = f" (found {_counted(left_out)})" if left_out else ""
        raise TileError(f"tiles {root}: no {KINDS} files below this folder{others}; cut slides into tiles first")
    return _of_files("folder", root.resolve().name, root, keys, left_out, size, resize, skip_bad)


def _files(paths: Sequence[Path], size: int, resize: str, skip_bad: bool) -> TileSource:
    """Open files and folders together; keys are relative to the folder they share, so that equal names stay apart."""
    files: list[str] = []
    left_out: Counter[str] = Counter()
    for path in paths:
        check_there(path)
        if (path / "pack.toml").is_file():
            raise TileError(f"tiles {path}: a calibration pack, among other sources; give it alone")
        inside = _scan(path, left_out) if path.is_dir() else [""]
        files += [os.path.abspath(path / key) for key in inside]
    if not files:
        raise TileError(f"tiles: no {KINDS} files were given; give a folder of tiles, or files")
    if twice := {path for path in files if files.count(path) > 1} if len(set(files)) < len(files) else None:
        raise TileError(f"tiles {min(twice)}: given more than once; give every tile once")
    root = Path(os.path.commonpath([os.path.dirname(path) for path in files]))
    keys = tuple(sorted(_key(Path(path), root) for path in files))
    return _of_files("files", f"{len(keys)} files", root, keys, left_out, size, resize, skip_bad)


def _of_files(
    kind: str,
    name: str,
    root: Path,
    keys: tuple[str, ...],
    left_out: Counter[str],
    size: int,
    resize: str,
    skip_bad: bool,
) -> TileSource:
    def load(key: str) -> np.ndarray:
        return read_image(root / key, size, resize)

    if left_out:  # without a handler, Python prints it to stderr
        _log.warning("%s", printable(f"tiles {root}: not taken are {_counted(left_out)}; {KINDS} files are"))
    source = TileSource(kind, name, keys, size, load, resize, skip_bad, root)
    return replace(source, left_out=dict(_most_first(left_out)))


def _pack(folder: Path, size: int, resize: str) -> TileSource:
    from .packformat import read_pack  # packs are built from tiles: one of the two has to come later

    info, rows = read_pack(folder)
    hashes = {row["path"]: row["sha256_pixels"] for row in rows}
    if size != info.size and resize == "refuse":
        mismatch = f"tiles of {info.size} x {info.size}, {size} x {size} are needed"
        raise TileError(f"pack {folder}: {mismatch}; choose --resize crop or --resize squash")

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


def _scan(root: Path, left_out: Counter[str]) -> list[str]:
    """List the keys of all image files below `root`, sorted; count the others by their kind."""
    try:
        paths = list(_walk(root, (), left_out))
    except OSError as error:
        raise TileError(f"tiles {root}: cannot be searched ({error.strerror}: {error.filename})") from error
    return sorted(_key(path, root) for path in paths)


def _walk(folder: Path, above: tuple[tuple[int, int], ...], left_out: Counter[str]) -> Iterator[Path]:
    """Yield image files; `above` are the device and inode of the folders on the way here, to find a link back."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise TileError(f"tiles {folder}: a link back to a folder it lies in; remove the link")
    for entry in folder.iterdir():
        if is_leftover(entry.name) or entry.name in TABLES:
            continue
        if entry.name.startswith("."):
            left_out["hidden"] += 1
        elif os.path.isdir(entry):
            yield from _walk(entry, (*above, here), left_out)
        elif entry.suffix.lower() in SUFFIXES:
            yield entry
        else:
            left_out[entry.suffix.lower() or "without a suffix"] += 1


def _most_first(left_out: Counter[str]) -> list[tuple[str, int]]:
    return sorted(left_out.items(), key=lambda entry: (-entry[1], entry[0]))


def _counted(left_out: Counter[str]) -> str:
    shown, more = _most_first(left_out)[:5], len(left_out) - 5
    return ", ".join(f"{count} {kind}" for kind, count in shown) + (f" and {more} other kinds" if more > 0 else "")


def _key(path: Path, root: Path) -> str:
    key = path.relative_to(root).as_posix()
    try:
        key.encode()
    except UnicodeEncodeError:
        raise TileError(f"tiles {root}: the name {key!r} is not valid UTF-8; rename the file") from None
    return key
