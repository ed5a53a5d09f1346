"""A cut slide's tiles in batches, read ahead by threads, so that decoding hides behind what embeds them."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from ..errors import TileError
from ..tiles.slides.cutting import CutSlide


class Stream:
    """The tiles of a slide, in the order of its coordinates; `bad` are those that could not be decoded, and why.

    The first are read at once, so that a slide that is prepared while another is embedded goes on without a pause. At
    most four batches are in memory. Close it, or go through it to its end.
    """

    def __init__(self, cut: CutSlide, batch: int = 8, readers: int = 2) -> None:
        self.cut, self._batch, self.bad = cut, batch, dict[int, str]()
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="edgepath-slide", initializer=_give_way)
        self._pending: deque[tuple[int, Future[np.ndarray | TileError]]] = deque()
        self._left = iter(range(len(cut)))
        try:
            self._read_ahead()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop reading; once more does nothing."""
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield which tiles, and their pixels, uint8 (n, S, S, 3); once."""
        indices: list[int] = []
        tiles: list[np.ndarray] = []
        try:
            while self._pending:
                index, tile = self._next()
                if isinstance(tile, TileError):
                    self.bad[index] = str(tile)
                    continue
                indices.append(index)
                tiles.append(tile)
                if len(indices) == self._batch:
                    yield indices, np.stack(tiles)
                    indices, tiles = [], []
            if indices:
                yield indices, np.stack(tiles)
        finally:
            self.close()

    def _next(self) -> tuple[int, np.ndarray | TileError]:
        index, future = self._pending.popleft()
        self._read_ahead()
        return index, future.result()

    def _read_ahead(self) -> None:
        for index in islice(self._left, 2 * self._batch + 1 - len(self._pending)):
            self._pending.append((index, self._pool.submit(self._tile, index)))

    def _tile(self, index: int) -> np.ndarray | TileError:
        try:
            return self.cut.tile(index)
        except TileError as error:
            return error


def _give_way() -> None:
    """Let the artifact's threads go first: where all cores are theirs, one that waits for a reader holds up all."""
    if sys.platform == "linux":  # elsewhere a process has one priority
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(10, os.getpriority(os.PRIO_PROCESS, thread)))
