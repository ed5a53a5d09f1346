"""HDF5 files are written through Python's own files: a disk that fills is an error then, and no crash."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[Any, Sink]]:
    """Yield a new file of h5py's, in place of what is there, and what tells early that the disk is full.

    Raises OSError at the end for what could not be written.
    """
    import h5py

    with Sink(path) as sink, h5py.File(sink, "w") as file:
        yield file, sink


class Sink:
    """A file for HDF5 that hides from it that the disk is full: after a write that failed, its library crashes Python.

    What could not be written is kept, so that HDF5 finds it again while it closes; `check` and leaving the `with` block
    raise the error.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115, closed on leaving the `with` block
        self._lost: list[tuple[int, bytes]] = []
        self._error: OSError | None = None

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.check()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def write(self, data: memoryview) -> int:
        start, done = self._file.tell(), 0
        try:
            while self._error is None and done < len(data):
                done += self._file.write(data[done:])
        except OSError as error:
            self._error = error
        if done < len(data):
            self._lost.append((start + done, bytes(data[done:])))
            self._file.seek(start + len(data))
        return len(data)

    def readinto(self, buffer: memoryview) -> int:
        start, size = self._file.tell(), len(buffer)
        count = self._file.readinto(buffer)
        for at, data in self._lost:
            low, high = max(at, start), min(at + len(data), start + size)
            if low < high:
                buffer[low - start : high - start] = data[low - at : high - at]
                count = max(count, high - start)
        self._file.seek(start + count)
        return count

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size) or b""

    def truncate(self, size: int) -> int:
        return size if self._error is not None else self._file.truncate(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        """Nothing waits here."""
