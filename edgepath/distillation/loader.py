"""Which tile comes when, and its views made ahead: all of it a function of seed and step, so nothing has to be saved.

Tile and draws at a position of the endless shuffled sequence depend on seed and position only: not on how many
processes share a step, nor on whether the run was interrupted before it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from threading import Thread
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import EdgepathError, UsageError, first_line
from ..machine.hardware import usable_cores
from ..tiles.source import TileSource
from .options import Run

Views: TypeAlias = tuple[np.ndarray, ...]
"""One or more sets of views of a tile, uint8 (V, S, S, 3) each; of a step's tiles, (V, N, S, S, 3)."""
MakeViews: TypeAlias = Callable[[np.ndarray, np.random.Generator], Views]


class Loader(Dataset[Views | EdgepathError]):
    """Views of a source's tiles for every step, made ahead by `run.workers` processes, or when asked for by none.

    There are never more of them than cores this process may use, which torchrun's processes share. `make` cuts the
    views of one tile, and draws from nothing but the generator it is given.
    """

    def __init__(
        self,
        source: TileSource,
        make: MakeViews,
        *,
        batch: int,
        steps: int,
        seed: int,
        run: Run,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if len(source) < batch:
            raise UsageError(
                f"tiles {source.name}: {len(source)} tiles are too few for a batch of {batch}; "
                "give more tiles, or a smaller training.batch"
            )
        if batch % world:
            raise UsageError(f"training.batch = {batch} cannot be shared by {world} processes; give a multiple")
        self._source, self._make, self._run = source, make, run
        self._batch, self._steps, self._seed = batch, steps, seed
        self._rank, self._share = rank, batch // world
        self._kept: dict[int, np.ndarray] = {}
        self._workers = min(run.workers, _cores())
        # Every process keeps tiles of its own: no step says which of them makes it.
        self._keep = run.cache_mb * 1_000_000 // (3 * source.size**2) // max(1, self._workers)

    def positions(self, step: int) -> range:
        """Return this process's places in the endless sequence."""
        first = step * self._batch + self._rank * self._share
        return range(first, first + self._share)

    def tile_at(self, position: int) -> int:
        """Return the index of the tile at a place: every run of `len(source)` places holds each tile once."""
        epoch, place = divmod(position, len(self._source))
        return int(_order(self._seed, epoch, len(self._source))[place])

    def steps(self, first: int) -> Generator[Views, None, None]:
        """Yield this process's share of the steps from `first` to the last; workers end when it is closed.

        Raises TileError for a bad tile.
        """
        self.tile_at(self.positions(first)[0])  # an epoch's order is shared by workers that are forked after it is made
        ahead = max(1, -(-self._run.prefetch // max(1, self._workers)))
        for made in DataLoader(
            self,
            sampler=range(first, self._steps),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self._workers,
            generator=torch.Generator(),  # of its own: it draws a number, which a resumed run would draw once more
            # Forked: a source's tiles are read by functions that can't be sent.
            multiprocessing_context="fork" if self._workers else None,
            prefetch_factor=ahead if self._workers else None,
            worker_init_fn=partial(_end_with, os.getpid()),
        ):
            if isinstance(made, EdgepathError):
                raise made
            yield made

    def __getitem__(self, step: int) -> Views | EdgepathError:
        """Return a step's views, or what was wrong with a tile: raised, it would come with a worker's traceback."""
        try:
            made = [self._views(position) for position in self.positions(step)]
        except EdgepathError as error:
            return error
        return tuple(np.stack(parts, 1) for parts in zip(*made, strict=True))

    def _views(self, position: int) -> Views:
        return self._make(self._tile(self.tile_at(position)), np.random.default_rng((self._seed, position, 1)))

    def _tile(self, index: int) -> np.ndarray:
        tile = self._kept.get(index)
        if tile is None:
            tile = self._source.load(self._source.keys[index])
            if len(self._kept) < self._keep:
                self._kept[index] = tile
        return tile


@contextmanager
def workers_told() -> Iterator[None]:
    """Say in one line that a worker was killed: PyTorch raises that wherever this process happens to be."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):  # "Caught ... in DataLoader worker" is a bug of ours
            raise
        raise EdgepathError(
            f"a process that makes views ended ({first_line(error).rstrip('. ')}), most likely for want of memory; "
            "the last checkpoint is kept; give fewer run.workers or a smaller run.cache_mb, and go on from it"
        ) from None


def _as_it_is(made: Any) -> Any:
    """Leave arrays what they are: tensors would come through shared memory, of which a container has little."""
    return made


def _cores() -> int:
    """Return how many cores this process may use, of which PyTorch warns where workers are more."""
    return max(1, len(usable_cores()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _end_with(parent: int, worker: int) -> None:
    """In a worker: end soon after `parent` was killed, where PyTorch's would wait for ever to get rid of its views."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch, 0)).permutation(count)
