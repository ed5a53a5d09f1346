"""The same cores and the same number of threads for everything that is compared."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..machine.hardware import usable_cores


@dataclass(frozen=True)
class Pinning:
    """How many threads each runtime was given, and in words how that was done."""

    threads: int
    how: str


@contextmanager
def pinned(threads: int = 0) -> Iterator[Pinning]:
    """Limit this process, and what it starts, to as many cores as it is to have threads; 0 takes all it may use.

    Raises UsageError for more threads than cores: they would wait for each other.
    """
    cores = usable_cores()
    threads = threads or len(cores)
    if threads > len(cores):
        raise UsageError(f"bench: {threads} threads on {len(cores)} cores; give {len(cores)} or fewer with --threads")
    in_each = "threads set in each runtime (INFERENCE_NUM_THREADS, intra_op_num_threads, torch.set_num_threads)"
    if not hasattr(os, "sched_setaffinity"):
        yield Pinning(threads, f"{in_each}; this system limits no process to cores")
        return
    chosen = cores[:threads]
    _limit(chosen)
    try:
        yield Pinning(threads, f"process limited to cores {', '.join(map(str, chosen))}; {in_each}")
    finally:
        _limit(cores)


def _limit(cores: list[int]) -> None:
    """Limit every thread this process has to cores; those it starts later follow the one that starts them."""
    for thread in Path("/proc/self/task").iterdir() if Path("/proc/self/task").is_dir() else ():
        with contextlib.suppress(ProcessLookupError):  # a thread that ended meanwhile
            os.sched_setaffinity(int(thread.name), cores)
    os.sched_setaffinity(0, cores)
