"""Texts of an HDF5 file are read by another process first: its library loops for ever in some damaged files.

That process is started once. It forks for each file, so that looking at one takes milliseconds.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

_LOOK = """
import sys
sys.path = [folder for folder in sys.path if folder]  # modules of the working directory are not run
import json, os, resource, signal
import h5py

def look(path, names):
    with h5py.File(path, "r") as file:
        for name in names:
            found = file.get(name)
            if found is None:
                continue
            index = [dict(found.attrs).get("_index")] if isinstance(found, h5py.Group) else []
            for values in [found[str(one)] for one in index if one] or [found]:
                values = values["values"] if isinstance(values, h5py.Group) and "values" in values else values
                if not isinstance(values, h5py.Dataset) or not values.dtype.hasobject:
                    continue
                if values.size * values.dtype.itemsize <= 1032 * values.id.get_storage_size():  # else it is refused
                    for start in range(0, len(values), 64):
                        values[start : start + 64]

signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks is interrupted, and ends this
for line in sys.stdin:
    if not (child := os.fork()):
        resource.setrlimit(resource.RLIMIT_CPU, (4, 4))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            look(*json.loads(line))
        finally:
            os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def check_ends(path: Path, *names: str) -> None:
    """Let another process read texts of a file first.

    `names` are data sets of text, or tables with an attribute `_index`. Raises OSError where that process had to be
    stopped, or crashed; what else is wrong with the file, its reader says.
    """
    if sys.platform == "win32":
        return
    if (status := _looker(os.getpid()).look(path.absolute(), names)) < 0:
        raise OSError(f"HDF5's library ends with signal {-status} in it")


class _Looker:
    """The process that looks, started at the first file; files of several threads are looked at in turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self._end, os.getpid())

    def look(self, path: Path, names: tuple[str, ...]) -> int:
        """Return the exit status of looking at a file, minus the signal where one ended it. Raises OSError."""
        with self._lock:
            process = self._process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps([str(path), names]) + "\n")
                process.stdin.flush()
                return int(process.stdout.readline())
            except BaseException as error:  # an answer that nobody waits for would be taken for the next file's
                self._end(os.getpid())
                if isinstance(error, (BrokenPipeError, ValueError)):
                    raise OSError("the process that reads HDF5 first came to an end") from None
                raise

    def _start(self) -> subprocess.Popen[str]:
        pipe, command = subprocess.PIPE, [sys.executable, "-c", _LOOK]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def _end(self, owner: int) -> None:
        process, self._process = self._process, None
        if process is not None and owner == os.getpid():
            process.kill()
            process.communicate()


@lru_cache(1)
def _looker(pid: int) -> _Looker:
    """Return this process's own: a child of a fork may not share its parent's."""
    return _Looker()
