"""The same places on several slides: PLISM's files, folders of one's own, or synthetic tissue in 91 looks.

A slide is a tile source with a staining and a scanner; all slides of a set hold the same places in the same order.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TileError, UsageError
from ..machine.arrays import map_npy
from ..machine.hdf5 import dataset
from ..machine.leftovers import is_leftover
from ..machine.tables import plain
from ..tiles.images import tile_sha256
from ..tiles.opening import open_tiles
from ..tiles.source import TileSource
from ..tiles.synthetic import SCANNERS, STAININGS, synthesize
from .results import Slides

PLISM_SUFFIX = "_to_GMH_S60.tif.h5"
SYNTHETIC_PLACES = 32
_SHIFT = 3
_TILE = re.compile(r"tile_(\d{1,9})_(\d{1,9})_(\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class Slide:
    """One slide: its name, how it was stained and scanned, its tiles, and their places as rows (level, x, y)."""

    name: str
    staining: str
    scanner: str
    tiles: TileSource
    places: np.ndarray


@dataclass(frozen=True)
class SlideSet:
    """Slides of the same places, and what they are in words."""

    kind: str
    name: str
    slides: tuple[Slide, ...]

    @property
    def places(self) -> int:
        return len(self.slides[0].places)

    def to_json(self) -> Slides:
        """Return what the set is, JSON-able."""
        places = np.ascontiguousarray(self.slides[0].places, np.int64)
        return {
            "kind": self.kind,
            "name": self.name,
            "slides": len(self.slides),
            "places": self.places,
            "stainings": sorted({slide.staining for slide in self.slides}),
            "scanners": sorted({slide.scanner for slide in self.slides}),
            "places_sha256": hashlib.sha256(places.tobytes()).hexdigest(),
            "looks": {slide.name: [slide.staining, slide.scanner] for slide in self.slides},
        }

    def identity(self) -> str:
        """Return what embeddings of these slides are kept under: nothing for PLISM's, as plism-benchmark has it.

        Otherwise a hash over pixels: of paired tiles all of them, of synthetic ones a tile of every look.
        """
        if self.kind == "plism":
            return ""
        if self.kind == "synthetic":  # the first tile of every look tells which edgepath drew them
            pixels = [tile_sha256(slide.tiles.read([0])[0]) for slide in self.slides]
        else:
            pixels = [slide.tiles.provenance()["sha256"] for slide in self.slides]
        return f"-{hashlib.sha256(''.join(pixels).encode()).hexdigest()[:8]}"


def _aside(name: str) -> bool:
    return name.startswith(".") or is_leftover(name)


def synthetic_slides(places: int = SYNTHETIC_PLACES, *, seed: int = 0, size: int = 224) -> SlideSet:
    """Return synthetic tissue in PLISM's 13 stainings on its 7 scanners, registered to within 3 pixels.

    The last is what remains after registering real slides; GMH on S60, on which PLISM is registered, does not move.
    """
    if places < 2:
        raise UsageError(f"robustness: {places} places; a tile needs others to be mistaken for: give --tiles 2 or more")
    slides = []
    for staining in STAININGS:
        for scanner in SCANNERS:
            name = f"{staining}_{scanner}"
            load = _draw(staining, scanner, seed, size)
            keys = tuple(f"synthetic/{seed}/{i:06d}_{name}" for i in range(places))
            tiles = TileSource("synthetic", name, keys, size, load, origin={"seed": seed})
            slides.append(Slide(name, staining, scanner, tiles, _numbered(places)))
    return SlideSet("synthetic", "synthetic tissue", tuple(slides))


def paired_slides(folder: str | Path, *, size: int = 224, resize: str = "refuse") -> SlideSet:
    """Return a folder with a folder a scanner (or staining) in it; files of one name are one place.

    A folder named STAINING_SCANNER with PLISM's names is both, any other is a scanner. Raises TileError naming the
    first file that is not in all of them.
    """
    root = Path(folder)
    if not root.is_dir():
        raise TileError(f"paired tiles {root}: no such folder")
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not _aside(entry.name))
    if len(names) < 2:
        raise TileError(
            f"paired tiles {root}: {len(names)} folders in it; give one with a folder a scanner, two or more"
        )
    slides: list[Slide] = []
    for name in names:
        tiles = open_tiles(root / name, size=size, resize=resize)
        first = slides[0].tiles if slides else tiles
        if odd := sorted(set(first.keys) ^ set(tiles.keys)):
            there, missing = (slides[0].name, name) if odd[0] in first.keys else (name, slides[0].name)
            raise TileError(
                f"paired tiles {root}: {odd[0]} is in {there} but not in {missing} ({len(odd)} such files); a place "
                "needs a file of one name in every folder"
            )
        staining, _, scanner = name.partition("_")
        known = staining in STAININGS and scanner in SCANNERS
        slides.append(Slide(name, *((staining, scanner) if known else ("", name)), tiles, _numbered(len(tiles))))
    if len(slides[0].tiles) < 2:
        raise TileError(f"paired tiles {root}: one place only; a tile needs others to be mistaken for")
    return SlideSet("paired", root.resolve().name, tuple(slides))


def plism_slides(folder: str | Path, rows: Sequence[int] | int | None = None, *, size: int = 224) -> SlideSet:
    """Return the slides of owkin/plism-dataset: `{STAINING}_{SCANNER}_to_GMH_S60.tif.h5`, a dataset a tile.

    Tiles come in the order of (x, y), as plism-benchmark sorts them; `rows` chooses some of them, by number, or so
    many, evenly spread. Any number of slides from two on will do. Raises TileError for slides that hold other places.
    """
    from ..machine.packages import require

    require("h5py", "features")
    root = Path(folder)
    if not root.is_dir():
        raise TileError(f"PLISM {root}: no such folder")
    files = sorted(file for file in root.glob(f"*{PLISM_SUFFIX}") if not is_leftover(file.name))
    if len(files) < 2:
        raise TileError(
            f"PLISM {root}: {len(files)} files named STAINING_SCANNER{PLISM_SUFFIX}; two or more are needed"
        )
    slides: list[Slide] = []
    for file in files:
        slide = _plism_slide(file, size)
        if slides and not np.array_equal(slide.places, slides[0].places):
            ours, theirs = ({tuple(row) for row in s.places.tolist()} for s in (slide, slides[0]))
            lost, extra = len(theirs - ours), len(ours - theirs)
            raise TileError(
                f"PLISM {root}: {lost} places are only in {slides[0].name}, {extra} only in {file.name}; fetch the one "
                "that is not whole again"
            )
        slides.append(slide)
    chosen = choose_rows(len(slides[0].places), rows)
    picked = [Slide(s.name, s.staining, s.scanner, s.tiles.select(chosen.tolist()), s.places[chosen]) for s in slides]
    return SlideSet("plism", root.resolve().name, tuple(picked))


def read_rows(word: str) -> Sequence[int] | int | None:
    """Return what `--tiles` says: a number, the row numbers of an .npy file, or nothing. Raises UsageError."""
    if not word:
        return None
    if re.fullmatch(r"\d{1,9}", word, re.ASCII):
        return int(word)
    if not word.endswith(".npy"):
        raise UsageError(f'--tiles "{word}": give a whole number, 2 or more, or an .npy file of row numbers')
    try:
        numbers: Any = map_npy(Path(word))
    except ValueError as error:
        raise UsageError(f"--tiles {word}: cannot be read ({error})") from None
    rows: Sequence[int] = numbers
    return rows


def choose_rows(count: int, rows: Sequence[int] | int | None) -> np.ndarray:
    """Return which of `count` rows are meant: all (None), so many evenly spread, or the numbers themselves."""
    if rows is None:
        return np.arange(count)
    if isinstance(rows, int):
        if not 2 <= rows <= count:
            raise UsageError(f"robustness: {rows} tiles of {count}; give 2 to {count}")
        return ((np.arange(rows) + 0.5) * count / rows).astype(int)
    chosen = np.asarray(rows)
    integers = chosen.ndim == 1 and np.issubdtype(chosen.dtype, np.integer)
    if not integers or len(chosen) < 2 or len(np.unique(chosen)) < len(chosen):
        raise UsageError(
            f"robustness: rows of {chosen.dtype} {chosen.shape}; two or more whole numbers are needed, each once"
        )
    if chosen.min() < 0 or chosen.max() >= count:
        raise UsageError(f"robustness: rows {chosen.min()} to {chosen.max()} of {count} tiles; the first is 0")
    return chosen


def _draw(staining: str, scanner: str, seed: int, size: int) -> Any:
    look = STAININGS.index(staining) * len(SCANNERS) + SCANNERS.index(scanner)

    def load(key: str) -> np.ndarray:
        place = int(key.split("/")[2].split("_")[0])
        drawn = np.random.default_rng((seed, place, 4, look)).integers(-_SHIFT, _SHIFT + 1, 2).tolist()
        shift = (0, 0) if (staining, scanner) == ("GMH", "S60") else (drawn[0], drawn[1])
        tile: np.ndarray = synthesize(
            1, seed=seed, start=place, staining=staining, scanner=scanner, size=size, shift=shift
        )[0]
        return tile

    return load


def _plism_slide(file: Path, size: int) -> Slide:
    import h5py

    staining, _, scanner = file.name.removesuffix(PLISM_SUFFIX).partition("_")
    try:
        with h5py.File(file, "r") as opened:
            names = list(map(str, opened))
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise TileError(f"PLISM {file}: not a whole HDF5 file ({error}); fetch it again") from None
    places: dict[tuple[int, ...], str] = {}
    for name in names:
        match = _TILE.fullmatch(name)
        if not match:
            raise TileError(f"PLISM {file}: {plain(name)} is not named tile_LEVEL_X_Y")
        level, x, y = map(int, match.groups())
        places[(x, y, level)] = name
    if not places:
        raise TileError(f"PLISM {file}: holds no tiles")
    order = sorted(places)
    lock = threading.Lock()

    def load(key: str) -> np.ndarray:
        try:
            with lock, h5py.File(file, "r") as opened:  # each time: 91 files are too many to keep open
                stored = dataset(opened, key)
                if stored.shape != (size, size, 3) or stored.dtype != np.uint8:
                    raise TileError(
                        f"PLISM {file}: {key} is {stored.dtype} {stored.shape}; uint8 ({size}, {size}, 3) is needed"
                    )
                return np.asarray(stored[()])
        except (OSError, RuntimeError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise TileError(f"PLISM {file}: {key} cannot be read ({error}); fetch it again") from None

    tiles = TileSource("plism", file.stem, tuple(places[place] for place in order), size, load)
    return Slide(file.stem, staining, scanner, tiles, np.array([(level, x, y) for x, y, level in order]))


def _numbered(count: int) -> np.ndarray:
    return np.stack([np.zeros(count, int), np.arange(count), np.zeros(count, int)], 1)


def open_slides(
    *,
    plism: str | Path | None = None,
    paired: str | Path | None = None,
    tiles: Sequence[int] | int | None = None,
    size: int = 224,
    resize: str = "refuse",
) -> SlideSet:
    """Return the slides of one of the sources, synthetic ones where none is given."""
    if plism is not None and paired is not None:
        raise UsageError("robustness: both --plism and --paired were given; give one of them")
    if resize != "refuse" and paired is None:
        raise UsageError("robustness: --resize is for --paired only; leave it out")
    if plism is not None:
        return plism_slides(plism, tiles, size=size)
    if paired is not None:
        if tiles is not None:
            raise UsageError("robustness: a number of tiles is for PLISM or synthetic ones; paired tiles are all taken")
        return paired_slides(paired, size=size, resize=resize)
    if tiles is not None and not isinstance(tiles, int):
        raise UsageError("robustness: rows are for --plism; give --tiles a number of synthetic locations")
    return synthetic_slides(SYNTHETIC_PLACES if tiles is None else tiles, size=size)
