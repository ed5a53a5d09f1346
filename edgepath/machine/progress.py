"""What long work says of itself: the stage it is in, how far it is, how long each stage took and how much memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

Progress = Callable[[str, int, int], None]
"""Is told the stage, how much of it is done, and how much there is."""
Advance = Callable[[int], None]
"""Is told how much more of the stage at hand was done."""


def silent(stage: str, done: int, total: int) -> None:
    """Say nothing."""


class Cost(TypedDict):
    """Seconds and the largest resident set of each stage, and the largest of all, in bytes.

    A system that cannot forget a peak (any but Linux) reports for a stage the largest up to its end.
    """

    seconds: dict[str, float]
    memory_bytes: dict[str, int]
    peak_memory_bytes: int


@dataclass
class Stages:
    """Names, times and announces the stages of an export; a stage that comes again adds to what it took."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    _largest: int = 0

    @contextmanager
    def stage(self, name: str, total: int = 1) -> Iterator[Advance]:
        start = time.perf_counter()
        self._largest = max(self._largest, peak_bytes())
        forget_peak()
        self.progress(name, 0, total)
        yield counter(self.progress, name, total)
        self.progress(name, total, total)
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)
        self.memory_bytes[name] = max(self.memory_bytes.get(name, 0), peak_bytes())

    def cost(self) -> Cost:
        """Return what the stages took so far."""
        return {
            "seconds": dict(self.seconds),
            "memory_bytes": dict(self.memory_bytes),
            "peak_memory_bytes": max(peak_bytes(), self._largest, *self.memory_bytes.values()),
        }


def forget_peak() -> None:
    """Let the kernel count the peak of the resident set anew (proc(5), clear_refs), where it can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Bytes of the largest resident set since the last `forget_peak`, or since the process began."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def counter(say: Progress | None, stage: str, total: int) -> Advance:
    """Return what counts up to `total` and says so, as progress of `stage`."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if say is not None:
            say(stage, done, total)

    return advance
