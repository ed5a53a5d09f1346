"""Build and check calibration packs: a diverse set of tissue tiles, where each came from, and the hash of its pixels.

What a pack looks like on disk: `packformat`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .._version import __version__
from ..errors import PackError, UsageError
from ..machine.progress import Advance, Progress, counter
from ..machine.writing import NewFolder
from .images import describe
from .opening import open_tiles
from .origins import Row, group_of, origins
from .packformat import SCHEMA, TILE, pack_files, pack_table, parse_pack_toml, read_file, to_toml
from .packformat import PackInfo as PackInfo
from .packformat import read_pack as read_pack
from .selection import select
from .source import TileSource

_NAMED = 1000  # bad tiles that a pack lists by name: its table is read whole
TISSUE = 0.1
"""The least part of a tile that must be tissue (see `tiles.images.describe`)."""


@dataclass(frozen=True)
class _Candidate:
    """A tile that may be chosen: which of the sources it is in, its index there, and its line of tiles.csv."""

    source: int
    index: int
    row: Row


def build_pack(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    count: int,
    *,
    seed: int = 0,
    resize: str = "refuse",
    skip_bad: bool = False,
    anonymous: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> PackInfo:
    """Select different tiles of some sources, and write them to a new folder as a calibration pack.

    Tiles with less than 10 % tissue are left out, and all but the first of equal ones. The rest is spread over sources,
    groups, stainings, scanners, labels and slides, and inside them over colour and texture. The same sources and seed
    give the same pack.

    Args:
        sources: Folders of tiles or slides, packs, or `synthetic[:COUNT[:SEED]]`.
        out: The folder of the new pack.
        count: Tiles to select.
        seed: The number that starts the selection.
        resize: What to do with tiles of another size: "refuse", "squash", or "crop" the centre.
        skip_bad: Leave out tiles that cannot be read, and list them in `pack.toml`.
        anonymous: Name tiles by the hash of their pixels, and sources, groups and slides by numbers.
        force: Replace an existing output.
        progress: Called as `progress(stage, done, total)` while it works.

    Returns:
        What the pack is: its path, count, seed, sources and sha256.

    Raises:
        PackError: There are too few tiles, or the disk is full.
        UsageError: An output is in the way.
        TileError: A tile cannot be read.
    """
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if count < 1 or seed < 0 or not given:
        raise UsageError(f"pack {out}: {count} tiles of {len(given)} sources, seed {seed}; give at least 1, 1 and 0")
    final = Path(out)
    try:
        with NewFolder(final, "pack", PackError, _may_replace, force=force) as new:
            opened = [open_tiles(source, resize=resize, skip_bad=skip_bad) for source in given]
            names = [f"source-{i}" for i in range(1, len(opened) + 1)] if anonymous else _names(opened)
            advance = counter(progress, "select", sum(map(len, opened)) + count)
            candidates, descriptors = _candidates(opened, names, advance)
            if len(candidates) < count:
                less = f", or ask for -n {len(candidates)}" if candidates else ""
                counted = f"{len(candidates)} of {sum(map(len, opened))} are different and at least {TISSUE:.0%} tissue"
                raise PackError(f"pack {out}: {count} tiles were asked for, {counted}; add sources{less}")
            groups = [group_of(candidate.row) for candidate in candidates]
            chosen = [candidates[i] for i in sorted(select(descriptors, groups, count, seed=seed))]
            _write_tiles(new.path, opened, chosen, advance)
            if anonymous:
                _forget([candidate.row for candidate in chosen])
            table = pack_table([candidate.row for candidate in chosen])
            (new.path / "tiles.csv").write_bytes(table)
            settings = {"count": count, "size": opened[0].size, "resize": resize, "seed": seed, "tissue": TISSUE}
            made = {"schema": SCHEMA, "name": _text(final.name), "edgepath": __version__}
            head = made | settings | {"sha256": hashlib.sha256(table).hexdigest()}
            skipped = [[("unreadable" if anonymous else key, why) for key, why in source.skipped] for source in opened]
            parts = [_source(i, names[i], source, candidates, chosen, skipped[i]) for i, source in enumerate(opened)]
            (new.path / "pack.toml").write_bytes(to_toml(head, parts))
            new.commit()
    except OSError as error:
        raise PackError(f"pack {final}: cannot be written ({error.strerror}: {error.filename})") from error
    return read_pack(out)[0]


def check_pack(path: str | Path) -> PackInfo:
    """Verify a pack to the last pixel and return what it is; PackError names the first thing that is not as it says."""
    path = Path(path)
    info, rows = read_pack(path)
    present, listed = set(pack_files(path)), {"pack.toml", "tiles.csv", *(row["path"] for row in rows)}
    for name in sorted(listed - present):
        raise PackError(f"pack {path}: {name} is missing; copy the pack again, all of it")
    for name in sorted(present - listed):
        raise PackError(f"pack {path}: {name} is not in its tiles.csv; a pack holds nothing else: move it away")
    for _ in open_tiles(path, size=info.size).batches():
        pass
    return info


def _candidates(
    opened: Sequence[TileSource], names: Sequence[str], advance: Advance
) -> tuple[list[_Candidate], np.ndarray]:
    """Decode every tile, and keep of those that may be chosen their line and descriptor, float32 (N, D)."""
    candidates: list[_Candidate] = []
    descriptors: list[np.ndarray] = []
    seen: set[str] = set()
    for number, (source, name) in enumerate(zip(opened, names, strict=True)):
        known = origins(source)
        index = {key: i for i, key in enumerate(source.keys)}
        for batch in source.batches():
            for key, pixels in zip(batch.keys, batch.pixels, strict=True):
                digest = source.digests[key]
                tissue, descriptor = describe(pixels)
                if tissue >= TISSUE and digest not in seen:
                    row = known[key] | {"sha256_pixels": digest, "source": name, "source_path": key}
                    candidates.append(_Candidate(number, index[key], row))
                    descriptors.append(descriptor)
                    seen.add(digest)
                advance(1)
    return candidates, np.array(descriptors)


def _write_tiles(folder: Path, opened: Sequence[TileSource], chosen: Sequence[_Candidate], advance: Advance) -> None:
    (folder / "tiles").mkdir()
    for number, candidate in enumerate(chosen):
        candidate.row["path"] = f"tiles/{number:05d}.png"
    for number, source in enumerate(opened):
        own = [candidate for candidate in chosen if candidate.source == number]
        tiles = (tile for batch in source.select([c.index for c in own]).batches() for tile in batch.pixels)
        for candidate, tile in zip(own, tiles, strict=True):
            png = io.BytesIO()
            Image.fromarray(tile).save(png, "PNG")
            (folder / candidate.row["path"]).write_bytes(png.getvalue())
            advance(1)


def _source(
    number: int,
    name: str,
    source: TileSource,
    candidates: Sequence[_Candidate],
    chosen: Sequence[_Candidate],
    bad: Sequence[tuple[str, str]],
) -> dict[str, object]:
    """Return what pack.toml says about a source."""
    own = [candidate.row for candidate in chosen if candidate.source == number]
    skipped = [f"{key}: {reason}" for key, reason in bad[:_NAMED]]
    if (more := len(bad) - len(skipped)) > 0:
        skipped.append(f"and {more} more")
    return {
        "name": name,
        "kind": source.kind,
        "considered": len(source),
        "tissue": sum(candidate.source == number for candidate in candidates),
        "chosen": len(own),
        "licences": sorted({row["licence"] for row in own} - {""}),
        **({"left_out": dict(source.left_out)} if source.left_out else {}),
    } | ({"skipped": skipped} if skipped else {})


def _forget(rows: Sequence[Row]) -> None:
    """Take all names of tiles, slides and groups out of the lines of tiles.csv; what was one group stays one."""
    for row in rows:
        row["source_path"] = row["sha256_pixels"][:16]
    for column in ("group", "slide"):
        numbers = {name: str(number) for number, name in enumerate(dict.fromkeys(row[column] for row in rows), 1)}
        for row in rows:
            row[column] = numbers[row[column]] if row[column] else ""


def _names(opened: Sequence[TileSource]) -> list[str]:
    """Name the sources: as they are called, with a number where two are called the same."""
    names: list[str] = []
    for source in opened:
        name, again = _text(source.name), 2
        while name in names:
            name, again = f"{_text(source.name)}-{again}", again + 1
        names.append(name)
    return names


def _text(name: str) -> str:
    """Return a file's name as text; bytes that are not UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()


def _may_replace(final: Path, force: bool) -> None:
    """Raise PackError for what is no pack, whole or not, UsageError for one without `force`, or with more in it."""
    parse_pack_toml(read_file(final, "pack.toml"), f"pack {final}")
    own = {"pack.toml", "tiles.csv"}
    foreign = [name for name in pack_files(final) if name not in own and not TILE.fullmatch(name)]
    if foreign:
        raise UsageError(f"{final} holds {foreign[0]}, which is not the pack's; move it away, or give another name")
    if not force:
        raise UsageError(f"{final} exists; give --force to replace it, or another name")
