"""ExecuTorch with its XNNPACK delegate, on the CPU: a `.pte` of one tile, and `model.json` beside it.

`Runner` stands alone (NumPy, executorch and the torch that it needs): the same file is copied into a bundle's kit.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_SCHEMA = 1
# One call at a time: the threads are the process's, and so is their number. By process, as a fork copies a held lock.
_LOCKS: dict[int, threading.Lock] = {}
_POOLS: list[int] = []


class Runner:
    """Embeds tiles with a `.pte`: `uint8 (N, S, S, 3) -> float32 (N, D)`, one by one. Use it in a `with` block.

    `threads` is the number of CPU threads; 0 takes the cores that this process may use. Threads may call it at the same
    time; they are served one after the other. Pickled or copied, it opens the artifact again with the same options, by
    `reopen`. Raises RuntimeError, in a line, for a file that is not the one that was built or that ExecuTorch refuses:
    the hash is compared first, since of a changed weight ExecuTorch sees nothing.
    """

    def __init__(self, artifact: Path, *, threads: int = 0) -> None:
        _check_threads(threads)
        artifact = Path(artifact).absolute()
        self.reopen: Callable[[], Runner] = functools.partial(Runner, artifact, threads=threads)
        about = read_about(artifact)
        data = _verified(artifact, about)
        self._threads = int(threads) or _allowed()
        self.size, self._names = int(about["tile"][1]), list(about["outputs"])
        self._data = data
        try:
            with _lock():
                self._pool = _take(self._threads)
                self._method: Any = load(data)
        except (RuntimeError, KeyError) as error:
            raise RuntimeError(f"{artifact.name}: ExecuTorch cannot load it ({_first_line(error)})") from None
        self.runtime = f"ExecuTorch {_version()}, XNNPACK, CPU"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return outputs by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width)."""
        _check(tiles, self.size)
        with _lock():
            if (method := self._method) is None:
                raise RuntimeError("this runner is closed; open another")
            if (pool := _take(self._threads)) != self._pool:  # a method keeps the threads it was loaded with
                self._pool, method = pool, load(self._data)
                self._method = method
            rows = [method(tile[None]) for tile in tiles]
        parts = zip(self._names, zip(*rows, strict=True), strict=True)
        return {name: np.concatenate(part) for name, part in parts}

    def __reduce__(self) -> tuple[Callable[[], Runner], tuple[()]]:
        return self.reopen, ()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._method = None


def load(data: bytes) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return the program in the bytes of a `.pte` as a function of its input, to its outputs.

    Raises RuntimeError for bytes that ExecuTorch refuses.
    """
    with _silent():
        import torch
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(data)
        method = program.load_method("forward")

    def run(given: np.ndarray, _kept: object = program) -> list[np.ndarray]:
        # A copy: torch takes neither negative strides nor, without a warning, arrays that are read-only.
        return [output.numpy() for output in method.execute([torch.from_numpy(np.array(given, order="C"))])]

    return run


def _take(threads: int) -> int:
    """Have ExecuTorch compute with so many threads; return which pool of threads that is.

    Another pool takes the place of the one before, which methods that were loaded with it must not be run with.
    """
    library = _library()
    if library._threadpool_get_thread_count() != threads:
        with _silent():
            library._unsafe_reset_threadpool(threads)
        _POOLS.append(threads)
    return len(_POOLS)


@functools.cache
def _library() -> Any:
    with _silent():
        from executorch.extension.pybindings import portable_lib

        portable_lib._threadpool_get_thread_count()  # asked first, it makes the threads
    return portable_lib


def about_file(artifact: Path) -> Path:
    """Return the file beside a `.pte` that says what a `.pte` does not: names of outputs, and its own hash."""
    return artifact.with_suffix(".json")


def read_about(artifact: Path) -> dict[str, Any]:
    """Read what stands beside a `.pte`. Raises RuntimeError where it is missing or not as edgepath writes it."""
    path = about_file(artifact)
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        side, outputs = about["tile"][1], about["outputs"]
        if about["schema"] != _SCHEMA or about["tile"] != [1, side, side, 3] or "embedding" not in outputs:
            raise ValueError(f"schema {about['schema']}, tile {about['tile']}, outputs {outputs}")
    except OSError as error:
        raise RuntimeError(f"{path.name}: {error.strerror}; it belongs beside {artifact.name}") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise RuntimeError(f"{path.name} is not what edgepath wrote ({_first_line(error)}); export again") from None
    return about


def _verified(artifact: Path, about: Mapping[str, Any]) -> bytes:
    """Return the bytes of an artifact. Raises RuntimeError unless they are those that were built."""
    try:
        data = artifact.read_bytes()
    except OSError as error:
        raise RuntimeError(f"{artifact.name}: {error.strerror}") from None
    if len(data) != about.get("size_bytes"):
        raise RuntimeError(
            f"{artifact.name} has {len(data)} bytes, {about.get('size_bytes')} were built; copy it again"
        )
    if hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise RuntimeError(f"{artifact.name} is not the file that was built (its SHA-256 differs); copy it again")
    return data


def _lock() -> threading.Lock:
    return _LOCKS.setdefault(os.getpid(), threading.Lock())


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep off the terminal what ExecuTorch's libraries write while they look at the CPU; errors come as exceptions."""
    before, empty = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    level = logging.root.manager.disable
    try:
        os.dup2(empty, 2)
        logging.disable(logging.WARNING)
        # ExecuTorch writes to Python's stream, other libraries to the file.
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        os.dup2(before, 2)
        os.close(before)
        os.close(empty)


def _version() -> str:
    from importlib.metadata import version

    return version("executorch")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _allowed() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_threads(threads: int) -> None:
    is_integer = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
    if not is_integer or not 0 <= threads <= 1024:
        raise ValueError(
            f"threads is {threads!r}; a whole number from 0 to 1024 is needed, and 0 lets the runtime choose"
        )


def _check(tiles: np.ndarray, size: int) -> None:
    if tiles.dtype != np.uint8 or tiles.shape[1:] != (size, size, 3) or not len(tiles):
        given = f"{tiles.dtype} {tiles.shape}"
        raise ValueError(f"tiles are {given}; uint8 (N, {size}, {size}, 3) with N of at least 1 is needed")
