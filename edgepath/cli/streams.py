"""Standard streams that are closed, full, or read by nobody any more."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Talk:
    """A stream of talk: what cannot be written is dropped, and the work goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return int(self._stream.write(text))
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Python would try again when it ends

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def robust_streams() -> Iterator[None]:
    """Drop what stderr cannot take, and keep files that are opened meanwhile out of the places of closed streams."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # what is opened next takes the lowest free number; writing to stdout is still an error
            os.open(os.devnull, os.O_WRONLY if number == 2 else os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (fails when it is written to)
    stream = sys.stderr
    sys.stderr = _Talk(stream or open(2, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 (of the process)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = stream


def stdout_fails() -> bool:
    """Tell whether nothing can be written to stdout."""
    try:
        os.write(1, b"\n")
    except OSError:
        return True
    return False
