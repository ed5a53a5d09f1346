"""Memory that arrays of a tile's size free is kept by the process, where the C library would hand it back each time."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT_BYTES, _LARGEST_BYTES = 64 << 20, 8 << 20


@cache
def keep_freed_memory() -> None:
    """Keep up to 64 MB of freed memory, and reuse it for arrays below 8 MB. Once a process; only glibc is told.

    By default glibc maps anew what is larger than 128 KB, and the kernel clears each page of it, which takes longer
    than resampling a tile does.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGEST_BYTES)
