"""OpenVINO on Intel CPUs (GPU and NPU by name): an IR, `model.xml` and `model.bin`.

`Runner` stands alone (NumPy and openvino only): the same file is copied into a bundle's kit and runs there.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class Runner:
    """Embeds tiles with an OpenVINO IR: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block.

    `threads` is the number of CPU threads, 0 lets OpenVINO choose; `device` is OpenVINO's device name; `precision` is
    the inference precision for what is not INT8 (`f32`, `f16`, `bf16`); `profile` keeps times per operation; `hint` is
    `latency`, or `throughput` for several streams side by side (`stream`); `cache` is a folder that keeps the compiled
    model, for a quicker start the next time.

    Threads may call it at the same time: each call has an infer request of its own. Pickled or copied, it opens the
    artifact again with the same options, by `reopen`. In the child of a fork it raises RuntimeError.
    """

    _started_in: ClassVar[int] = 0  # the process that opened the first one

    def __init__(
        self,
        artifact: Path,
        *,
        threads: int = 0,
        device: str = "CPU",
        precision: str = "f32",
        profile: bool = False,
        hint: str = "latency",
        cache: str = "",
    ) -> None:
        _check_threads(threads)
        _check_process()
        given: dict[str, Any] = {"threads": threads, "device": device, "precision": precision, "profile": profile}
        given |= {"hint": hint, "cache": cache}
        self.reopen: Callable[[], Runner] = functools.partial(Runner, Path(artifact).absolute(), **given)
        options: dict[str, Any] = {"PERFORMANCE_HINT": hint.upper(), "INFERENCE_PRECISION_HINT": precision}
        if cache:
            options["CACHE_DIR"] = cache
        if device == "CPU":
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # what the program does not round, the runtime shall not
        if device == "CPU" and threads:
            options["INFERENCE_NUM_THREADS"] = int(threads)
            # By default a process binds its threads to the first cores, and so does each one beside it: two of a thread
            # each take turns on one core.
            options["ENABLE_CPU_PINNING"] = False
        if profile:
            options["PERF_COUNT"] = True
        Runner._started_in = os.getpid()
        self._compiled: Any = core().compile_model(artifact, device, options)
        _open.add(self)
        self._idle: list[Any] = []
        self._profile, self._last = profile, threading.local()
        self.size = self._compiled.input(0).partial_shape[1].get_length()
        self.runtime = f"OpenVINO {sys.modules['openvino'].__version__.split('-')[0]}, {device}, {precision}"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return outputs by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width)."""
        _check(tiles, self.size)
        request = self._take()
        results = request.infer({0: np.ascontiguousarray(tiles)})
        outputs = {port.get_any_name(): np.array(values) for port, values in results.items()}
        if self._profile:
            self._last.operations = _operations(request)
        self._idle.append(request)
        return outputs

    def requests(self) -> int:
        """Return how many batches the runtime wants to have at hand at a time."""
        return int(self._opened().get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def stream(self, batches: Iterable[np.ndarray]) -> list[np.ndarray]:
        """Embed batches side by side, as many at a time as the runtime has requests for; in the order given."""
        # Not AsyncInferQueue: deleting one that had a callback waits for a thread that waits for the interpreter.
        most, embeddings, started = self.requests(), [], deque[Any]()
        try:
            for tiles in batches:
                _check(tiles, self.size)
                if len(started) == most:
                    embeddings.append(self._finish(started.popleft()))
                request = self._take()
                request.start_async({0: np.ascontiguousarray(tiles)})
                started.append(request)
        finally:  # where a batch was refused, those before it are still being computed
            rest = [self._finish(request) for request in started]
        return embeddings + rest

    def _take(self) -> Any:
        """Return an infer request that nobody uses; whoever takes it puts it back, with its outputs copied."""
        compiled = self._opened()
        try:
            return self._idle.pop()
        except IndexError:  # as many are made as there ever are calls at a time
            return compiled.create_infer_request()

    def _finish(self, request: Any) -> np.ndarray:
        """Wait for a request that was started, and return its embeddings."""
        request.wait()
        embeddings = np.array(request.get_tensor("embedding").data)
        self._idle.append(request)
        return embeddings

    def linears(self) -> dict[str, int]:
        """Count the matrix products with weights by the precision they execute in, as the runtime reports it."""
        counts: dict[str, int] = {}
        for operation in self._opened().get_runtime_model().get_ops():
            info = operation.get_rt_info()
            if info["layerType"].astype(str) == "FullyConnected":
                precision = info["runtimePrecision"].astype(str)
                counts[precision] = counts.get(precision, 0) + 1
        return counts

    def operations(self) -> list[tuple[str, str, float]]:
        """Return type, execution precision and milliseconds of what this thread's last call executed.

        RuntimeError where `profile` is not set, or this thread has made no call.
        """
        if not hasattr(self._last, "operations"):
            raise RuntimeError("nothing was timed: this thread has made no call, or `profile` was not set")
        operations: list[tuple[str, str, float]] = self._last.operations
        return operations

    def _opened(self) -> Any:
        _check_process()
        if self._compiled is None:
            raise RuntimeError("this runner is closed; open another")
        return self._compiled

    def __reduce__(self) -> tuple[Callable[[], Runner], tuple[()]]:
        return self.reopen, ()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._compiled = None
        self._idle.clear()


_cores: dict[int, Any] = {}  # by process: a child of a fork has its own
_making = threading.Lock()


def core() -> Any:
    """Return OpenVINO's `Core`, the same one as long as this process lives.

    Each one's CPU plugin gives its thread a stack for signal handlers and, when it goes, gives back the one before: of
    two that end in the order they began, a stack that is gone by then. The next signal that Python handles, as Ctrl-C
    or the end of a child, then ends the process without a word (OpenVINO 2026.4.1).
    """
    with _making:
        if os.getpid() not in _cores:
            # Without this package OpenVINO reports nothing: importing it asked a web analytics host and left ~/intel.
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
            import openvino

            _cores[os.getpid()] = openvino.Core()
        return _cores[os.getpid()]


_open: weakref.WeakSet[Runner] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """Keep the child of a fork from ever destroying a model: that waits for threads which stayed with the parent."""
    started = [kept for runner in _open for kept in (runner._compiled, *runner._idle)]
    for kept in (*_cores.values(), *started):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def _check_process() -> None:
    """Raise RuntimeError in the child of a fork: what it inherits of OpenVINO's threads hangs or ends the process."""
    if Runner._started_in not in (0, os.getpid()):
        raise RuntimeError(
            "OpenVINO was started before this process was forked, and does not work in it; start processes by spawn "
            "or forkserver, or open no runner before the fork"
        )


def _operations(request: Any) -> list[tuple[str, str, float]]:
    return [
        (info.node_type, info.exec_type.rpartition("_")[2].lower(), info.real_time.total_seconds() * 1e3)
        for info in request.get_profiling_info()
        if info.status == info.Status.EXECUTED
    ]


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
