"""A source of tiles: their names, and their pixels in batches as they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from ..errors import BadTile, TileError, UsageError
from .images import tile_sha256

_KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class TileBatch:
    """Some tiles in order: their keys, and their pixels as uint8 (N, S, S, 3)."""

    keys: tuple[str, ...]
    pixels: np.ndarray


class TilesOf(TypedDict):
    """What tiles are called, what kind of source they are from (a folder, a pack, ...), and how many there are."""

    kind: str
    name: str
    count: int


class _Provenance(TilesOf):
    sha256: str
    size: int
    resize: str
    skipped: int


class Provenance(_Provenance, total=False):
    """What tiles are: `sha256` is over the lines `<tile sha256>  <key>`; `seed` is of synthetic ones."""

    seed: int
    pack: dict[str, object]
    slides: dict[str, object]
    left_out: dict[str, int]


@dataclass
class TileSource:
    """Tiles of `size` x `size`, decoded when they are asked for; `len()` counts also those that turn out to be bad.

    `load` returns one tile, uint8 (S, S, 3), by its key. `root` is the folder that the keys are relative to, where
    there is one, and never leaves this machine: `provenance()` does not hold it. `left_out` counts the files that lay
    beside the tiles and were not taken, by their suffix.
    """

    kind: str
    name: str
    keys: tuple[str, ...]
    size: int
    load: Callable[[str], np.ndarray]
    resize: str = "refuse"
    skip_bad: bool = False
    root: Path | None = None
    origin: Mapping[str, object] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
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

    def kept(self) -> TileSource:
        """Return the same tiles, each decoded once: pixels stay in memory, up to 1 GiB of them (7,000 tiles of 224 px).

        What is selected of them shares what was decoded.
        """
        known: dict[str, np.ndarray | TileError] = {}
        room = _KEPT_BYTES // (3 * self.size**2)

        def load(key: str) -> np.ndarray:
            tile = known.get(key)
            if tile is None:
                tile = self._loaded(key)
                if len(known) < room:
                    known[key] = tile
            if isinstance(tile, TileError):
                raise tile
            return tile

        return replace(self, load=load)

    def anonymous(self) -> TileSource:
        """Return the same tiles, named by the hash of their pixels: whoever has a tile can find it, nobody else.

        The source has no name and no folder then; tiles that cannot be read are left out, and listed without theirs.
        Packs and the synthetic source stay as they are, as their tiles have numbers. Decodes what was not decoded yet.
        """
        if self.kind in ("pack", "synthetic"):
            return self
        self.provenance()
        names: dict[str, str] = {}
        for key in (key for key in self.keys if key in self.digests):
            name, copies = self.digests[key][:16], 1
            while name in names:  # of equal pixels
                copies += 1
                name = f"{self.digests[key][:16]}-{copies}"
            names[name] = key
        return TileSource(
            *(self.kind, "anonymous", tuple(sorted(names)), self.size),
            load=lambda name: self.load(names[name]),
            resize=self.resize,
            skip_bad=self.skip_bad,
            digests={name: self.digests[key] for name, key in names.items()},
            _bad={f"unreadable {number}": reason for number, (_, reason) in enumerate(self.skipped, 1)},
        )

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

    def provenance(self) -> Provenance:
        """Return what these tiles are, JSON-able.

        Decodes tiles that were not decoded before. Tiles that were skipped count as not there.
        """
        if any(key not in self.digests for key in self.keys):
            for _ in self.batches():
                pass
        good = [key for key in self.keys if key in self.digests]
        lines = "".join(f"{self.digests[key]}  {key}\n" for key in good)
        facts = {
            "kind": self.kind,
            "name": self.name,
            "count": len(good),
            "sha256": hashlib.sha256(lines.encode()).hexdigest(),
            "size": self.size,
            "resize": self.resize,
            "skipped": len(self.keys) - len(good),
        }
        left_out = {"left_out": dict(self.left_out)} if self.left_out else {}
        return cast(Provenance, facts | left_out | dict(self.origin))

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

    def _loaded(self, key: str) -> np.ndarray | TileError:
        try:
            return self.load(key)
        except TileError as error:
            return error

    def _tile(self, key: str) -> np.ndarray | TileError:
        try:
            tile = self.load(key)
        except TileError as error:
            if not self.skip_bad:
                raise BadTile(str(error)) from error
            return error
        digest = tile_sha256(tile)
        if self.digests.setdefault(key, digest) != digest:
            raise TileError(f"{self.name}: {key} changed since it was first read; run again")
        return tile
