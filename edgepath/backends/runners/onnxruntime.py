"""ONNX Runtime on the CPU: any `.onnx` artifact of a bundle.

`Runner` stands alone (NumPy and onnxruntime only): the same file is copied into a bundle's kit and runs there.
"""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Runner:
    """Embeds tiles with an ONNX artifact: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block.

    `threads` is the number of CPU threads; 0 lets ONNX Runtime choose among the cores this process may use. Threads may
    call it at the same time, as a session of ONNX Runtime takes calls from all of them. Pickled or copied, it opens the
    artifact again with the same options, by `reopen`; so it does in the child of a fork.
    """

    def __init__(self, artifact: Path, *, threads: int = 0) -> None:
        _check_threads(threads)
        self.reopen: Callable[[], Runner] = functools.partial(Runner, Path(artifact).absolute(), threads=threads)
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read by the import, which left a device identifier to be uploaded
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # where it was imported before
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(threads) or _allowed()
        options.log_severity_level = 3
        self._process = os.getpid()
        self._session: Any = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        _open.add(self)
        tiles = self._session.get_inputs()[0]
        self._input, self.size = tiles.name, tiles.shape[1]
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}, CPU"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return outputs by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width)."""
        _check(tiles, self.size)
        session = self._opened()
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {self._input: np.ascontiguousarray(tiles)}), strict=True))

    def _opened(self) -> Any:
        """Return the session; in the child of a fork a new one, for the old one's threads stayed with the parent."""
        if self._session is None:
            raise RuntimeError("this runner is closed; open another")
        if self._process != os.getpid():
            vars(self).update(vars(self.reopen()))
        return self._session

    def __reduce__(self) -> tuple[Callable[[], Runner], tuple[()]]:
        return self.reopen, ()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None


_open: weakref.WeakSet[Runner] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """Keep the child of a fork from ever destroying a session: that waits for threads which stayed with the parent."""
    for runner in _open:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(runner._session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _allowed() -> int:
    """Return how many threads suit a process that is kept to some of the machine's cores, of which ONNX Runtime does
    not know; else 0, its own choice."""
    if not hasattr(os, "sched_getaffinity"):
        return 0
    cores = len(os.sched_getaffinity(0))
    return cores if cores < (os.cpu_count() or 1) else 0


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
