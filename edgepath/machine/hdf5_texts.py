"""Texts out of HDF5 files from strangers are read by another process, which has 4 s of processor time and 512 MB.

HDF5's library loops for ever in some damaged texts, and takes the memory that others declare, where nothing in this
process can stop it. The other process is started once; it forks for each file, which takes milliseconds.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import first_line
from .hdf5 import dataset, inside, texts

_SECONDS, _BYTES = 4, 512 << 20
# What lies in the working directory is no module.
_SERVE = "import sys; sys.path = [p for p in sys.path if p] + sys.argv[1:]; import {0}; {0}.serve()"


def read_texts(path: Path, name: str) -> list[str]:
    """Return the strings of a dataset, flat; of a table (AnnData), those of its index.

    Raises OSError where there are none, and for a file that cannot be read in the time and memory it is given.
    """
    return [text for part in _ask(path, "texts", name) for text in part]


def read_attributes(path: Path, name: str) -> dict[str, Any]:
    """Return a group's attributes: strings, and lists of whole numbers; none of another type. Raises OSError."""
    return dict(next(_ask(path, "attributes", name)))


def _texts(file: Any, name: str) -> Iterator[list[str]]:
    import h5py

    item = inside(file, name)
    if isinstance(item, h5py.Group):
        index = str(item.attrs["_index"])  # strings, or since anndata 0.11 strings with a mask of missing ones
        nullable = isinstance(inside(item, index), h5py.Group)
        yield from texts(dataset(item, f"{index}/values" if nullable else index))
    else:
        yield from texts(dataset(file, name))


def _attributes(file: Any, name: str) -> Iterator[dict[str, Any]]:
    attributes = inside(file, name).attrs
    values = {key: attributes[key] for key in attributes}
    arrays = {key: np.asarray(value).ravel() for key, value in values.items()}
    numbers = {key: array.tolist() for key, array in arrays.items() if array.dtype.kind in "iu"}
    yield numbers | {key: value for key, value in values.items() if isinstance(value, str)}


def _answers(path: str, what: str, name: str) -> Iterator[Any]:
    import h5py

    with h5py.File(path, "r") as file:
        yield from {"texts": _texts, "attributes": _attributes}[what](file, name)


def _ask(path: Path, what: str, name: str) -> Iterator[Any]:
    asked = (str(path.absolute()), what, name)
    if sys.platform == "win32":  # nothing forks there
        try:
            yield from _answers(*asked)
        except Exception as error:
            raise OSError(first_line(error)) from None
    else:
        yield from _reader(os.getpid()).ask(asked)


class _Reader:
    """The other process, started at the first file; files of several threads are read in turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self._end, os.getpid())

    def ask(self, asked: tuple[str, str, str]) -> list[Any]:
        """Return the parts of an answer. Raises OSError for an error that was one, and for a process that ended."""
        with self._lock:
            process = self._process = self._process or self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
                parts = [json.loads(line) for line in iter(process.stdout.readline, "end\n")]
            except BaseException as error:  # what nobody waits for would be taken for the next file's
                self._end(os.getpid())
                if isinstance(error, (BrokenPipeError, ValueError)):
                    raise OSError("the process that reads texts of HDF5 came to an end") from None
                raise
        *answer, (status, problem) = parts
        if status < 0:
            raise OSError(f"HDF5's library ends with signal {-status} in it")
        if problem:
            raise OSError(problem)
        return answer

    def _start(self) -> subprocess.Popen[str]:
        root, pipe = str(Path(__file__).resolve().parents[2]), subprocess.PIPE
        command = [sys.executable, "-c", _SERVE.format(__name__), root]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)

    def _end(self, owner: int) -> None:
        process, self._process = self._process, None
        if process is not None and owner == os.getpid():
            process.kill()
            process.communicate()


@lru_cache(1)
def _reader(pid: int) -> _Reader:
    """Return this process's own: a child of a fork may not share its parent's."""
    return _Reader()


def serve() -> None:
    """Answer on stdout, in JSON, what is asked on stdin, a line for a file: in a child, which may crash."""
    import h5py  # noqa: F401 (once, for all children)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks is interrupted, and ends this
    for line in sys.stdin:
        read_end, write_end = os.pipe()
        if not (child := os.fork()):
            problem = _child(json.loads(line))
            os.write(write_end, problem.encode(errors="replace")[:4096])  # as much as a pipe holds
            os._exit(0)
        os.close(write_end)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with os.fdopen(read_end, "rb") as pipe:
            problem = pipe.read().decode(errors="replace")
        print(f"{json.dumps([status, problem])}\nend", flush=True)


def _child(asked: list[str]) -> str:
    """Print the parts of an answer; return what went wrong."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if (size := Path("/proc/self/statm")).exists():
        most = int(size.read_text().split()[0]) * resource.getpagesize() + _BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        for part in _answers(*asked):
            print(json.dumps(part), flush=True)
    except Exception as error:
        return first_line(error)
    return ""
