"""Which tile comes when, and its views made ahead: all of it a function of seed and step, so nothing has to be saved.

Tile and draws at a position of the endless shuffled sequence depend on seed and position only: not on how many
processes share a step, nor on whether the run was interrupted before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import UsageError
from ..tiles import TileSource
from .options import Options
from .views import make_views


@dataclass(frozen=True)
class Step:
    """One process's share of a step: uint8 crops (G, N, S, S, 3) and (L, N, s, s, 3)."""

    large: np.ndarray
    small: np.ndarray


class Loader:
    """Views of a source's tiles for every step, made by threads `run.prefetch` steps ahead."""

    def __init__(self, source: TileSource, options: Options, *, rank: int = 0, world: int = 1) -> None:
        batch = options.training.batch
        if len(source) < batch:
            raise UsageError(
                f"tiles {source.name}: {len(source)} tiles are too few for a batch of {batch}; "
                "give more tiles, or a smaller training.batch"
            )
        if batch % world:
            raise UsageError(f"training.batch = {batch} cannot be shared by {world} processes; give a multiple")
        self._source, self._options, self._rank, self._share = source, options, rank, batch // world
        self._kept: dict[int, np.ndarray] = {}
        self._keep = options.run.cache_mb * 1_000_000 // (3 * source.size**2)

    def positions(self, step: int) -> range:
        """Return this process's places in the endless sequence."""
        first = step * self._options.training.batch + self._rank * self._share
        return range(first, first + self._share)

    def tile_at(self, position: int) -> int:
        """Return the index of the tile at a place: every run of `len(source)` places holds each tile once."""
        epoch, place = divmod(position, len(self._source))
        return int(_order(self._options.training.seed, epoch, len(self._source))[place])

    def steps(self, first: int) -> Iterator[Step]:
        """Yield the steps from `first` to the last."""
        pending: deque[list[Future[tuple[np.ndarray, np.ndarray]]]] = deque()
        pool = ThreadPoolExecutor(self._options.run.threads, thread_name_prefix="edgepath-views")
        try:
            coming = iter(range(first, self._options.training.steps))
            while True:
                while len(pending) <= self._options.run.prefetch and (step := next(coming, None)) is not None:
                    pending.append([pool.submit(self._views, position) for position in self.positions(step)])
                if not pending:
                    return
                made = [future.result() for future in pending.popleft()]
                yield Step(np.stack([large for large, _ in made], 1), np.stack([small for _, small in made], 1))
        finally:
            pool.shutdown(cancel_futures=True)

    def _views(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self._options.training.seed, position, 1))
        return make_views(self._tile(self.tile_at(position)), self._source.size, self._options.views, rng)

    def _tile(self, index: int) -> np.ndarray:
        tile = self._kept.get(index)
        if tile is None:
            tile = self._source.load(self._source.keys[index])
            if len(self._kept) < self._keep:
                self._kept[index] = tile
        return tile


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 0)).permutation(count)
