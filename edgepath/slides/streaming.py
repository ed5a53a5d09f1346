"""A cut slide's tiles in batches, read ahead by threads, so that decoding hides behind what embeds them."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ..errors import TileError
from ..tiles.slides.cutting import CutSlide


@dataclass
class Stream:
    """The tiles of a slide, in the order of its coordinates; `bad` are those that could not be decoded, and why."""

    cut: CutSlide
    batch: int = 8
    readers: int = 2
    bad: dict[int, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield which tiles, and their pixels, uint8 (n, S, S, 3). At most four batches are in memory."""
        indices: list[int] = []
        tiles: list[np.ndarray] = []
        for index, tile in self._read():
            if isinstance(tile, TileError):
                self.bad[index] = str(tile)
                continue
            indices.append(index)
            tiles.append(tile)
            if len(indices) == self.batch:
                yield indices, np.stack(tiles)
                indices, tiles = [], []
        if indices:
            yield indices, np.stack(tiles)

    def _read(self) -> Iterator[tuple[int, np.ndarray | TileError]]:
        pending: deque[tuple[int, Future[np.ndarray | TileError]]] = deque()
        pool = ThreadPoolExecutor(self.readers, thread_name_prefix="edgepath-slide", initializer=_give_way)
        try:
            for index in range(len(self.cut)):
                pending.append((index, pool.submit(self._tile, index)))
                if len(pending) > 2 * self.batch:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

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
