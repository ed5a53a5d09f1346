"""Core AI: a program, `model.aimodel`, run by macOS or, anywhere, by the interpreter that Apple's package brings.

`Runner` stands alone (NumPy and coreai-core only): the same file is copied into a bundle's kit and runs there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import platform
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

VERSION = "1.0.0b3"
"""The release of coreai-core whose ways this file knows. It is a beta: the next may have others."""
_MACOS = 27  # the first with Core AI
_MATMUL = "coreai.decomposable.broadcasting_batch_matmul"
_PATIENCE_MS = 5000
_quiet = threading.Lock()


class Runner:
    """Embeds tiles with a Core AI program: `uint8 (N, S, S, 3) -> float32 (N, D)`. Use it in a `with` block.

    Without `interpreter` macOS runs it, 27 or later. With it Apple's interpreter does, on any machine: a check of
    numbers, not of speed. It rounds every result to the type the program declares. By itself it rounds every term and
    every partial sum of an FP16 matmul, too, one after the other, at a hundredth of its FP32 speed; here matmuls add up
    in FP32 and round once, unless `fp16_sums` says otherwise. `threads` is over how many the interpreter spreads the
    tiles of a call, 0: one for each core. Threads may call it at the same time. Pickled or copied, it loads the program
    again, by `reopen`; it does not outlive a fork. `timed` says whether its speed is a device's. Raises OSError where
    that cannot run here, RuntimeError for a damaged program.
    """

    def __init__(self, artifact: Path, *, interpreter: bool = False, fp16_sums: bool = False, threads: int = 0) -> None:
        _check_threads(threads)
        artifact = Path(artifact)
        self.reopen: Callable[[], Runner] = functools.partial(
            Runner, artifact.absolute(), interpreter=interpreter, fp16_sums=fp16_sums, threads=threads
        )
        _require(interpreter)
        check_whole(artifact)
        self._process, self._threads = os.getpid(), int(threads) or len(_cores())
        with silent():
            self._function: Any = _in_thread(_loaded, artifact, interpreter and not fp16_sums)
        self._calls: Any = ThreadPoolExecutor(self._threads) if interpreter else ThreadPoolExecutor(1)
        self._interpreted, self.timed = interpreter, not interpreter
        self.size = int(self._function.desc.input_descriptor("tiles").shape[1])
        how = f"Apple's interpreter, FP16 matmuls add in {'FP16' if fp16_sums else 'FP32'}"
        self.runtime = f"Core AI {VERSION}, {how}" if interpreter else f"Core AI of macOS {platform.mac_ver()[0]}"

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        return self.outputs(tiles)["embedding"]

    def outputs(self, tiles: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return outputs by name: `embedding` float32 (N, D) and, where exported, `tokens` float32 (N, P, width)."""
        _check(tiles, self.size)
        if self._process != os.getpid():
            raise RuntimeError("this runner was opened before a fork, which Core AI does not outlive; open one here")
        if self._function is None:
            raise RuntimeError("this runner is closed; open another")
        parts = np.array_split(tiles, min(self._threads, len(tiles))) if self._interpreted else [tiles]
        rows = list(self._calls.map(functools.partial(_called, self._function), parts))
        return {name: np.concatenate([row[name] for row in rows]) for name in self._function.desc.output_names}

    def __reduce__(self) -> tuple[Callable[[], Runner], tuple[()]]:
        return self.reopen, ()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._function = None
        self._calls.shutdown()


def check_whole(artifact: Path) -> None:
    """Raise RuntimeError unless the program is the one that was saved: Apple's reader ends the process for another."""
    try:
        digest = hashlib.sha256((artifact / "main.mlirb").read_bytes()).digest()
        expected = (artifact / "main.hash").read_bytes()
    except OSError as error:
        raise RuntimeError(f"{artifact.name}: {error.strerror} ({Path(error.filename).name})") from None
    if digest != expected:
        raise RuntimeError(f"{artifact.name}: main.mlirb is damaged, its hash is not the one in main.hash")


def widen(program: Any) -> None:
    """Have a program's FP16 matmuls add up in FP32, in place: casts in front, and one to FP16 behind."""
    from coreai._compiler.dialects import coreai
    from coreai._compiler.ir import F16Type, F32Type, InsertionPoint, Location

    module = program._module._mlir_module
    with module.context, Location.unknown():
        wide, half = F32Type.get(), F16Type.get()
        for graph in module.body.operations:
            for block in graph.regions[0].blocks:
                for matmul in [operation for operation in block.operations if operation.name == _MATMUL]:
                    if matmul.results[0].type.element_type == half:
                        with InsertionPoint(matmul):
                            factors = [coreai.cast(factor, wide) for factor in matmul.operands]
                            result = coreai.cast(coreai.broadcasting_batch_matmul(*factors), half)
                        matmul.results[0].replace_all_uses_with(result)
                        matmul.operation.erase()


def load_function(program: Any, names: list[str]) -> dict[str, Any]:
    """Compile a program for the interpreter, and return functions of it by name."""
    with silent():
        return dict(_in_thread(_interpreted, program, names))


def call(function: Any, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Call a function with arrays by name, and return its outputs by name."""
    return dict(_in_thread(_awaited, function, inputs))


def _loaded(artifact: Path, wide: bool) -> Any:
    from coreai.authoring import AIModelAsset

    asset = AIModelAsset.load(artifact)
    if not wide:
        return asyncio.run(_functions(asset, ["main"]))["main"]
    program = asset.program
    widen(program)
    return _interpreted(program, ["main"])["main"]


def _interpreted(program: Any, names: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:  # what is compiled is read from disk
        return asyncio.run(_functions(program.save_asset(Path(folder) / "model.aimodel"), names))


async def _functions(asset: Any, names: list[str]) -> dict[str, Any]:
    async with asset.executable() as model:
        return {name: model.load_function(name) for name in names}


def _called(function: Any, tiles: np.ndarray) -> dict[str, np.ndarray]:
    return _awaited(function, {"tiles": tiles})


def _awaited(function: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    from coreai.runtime import NDArray

    async def outputs() -> Mapping[str, Any]:
        given = {name: NDArray(np.ascontiguousarray(value)) for name, value in inputs.items()}
        returned: Mapping[str, Any] = await function(given)
        return returned

    with contextlib.closing(asyncio.new_event_loop()) as loop:
        before = sys.getrefcount(loop)
        results = loop.run_until_complete(outputs())
        # One of Core AI's threads has yet to let go of what is Python's. One that wants to when Python has ended ends
        # the process with an error. It keeps two references for good.
        for _ in range(_PATIENCE_MS):
            if sys.getrefcount(loop) <= before + 2:
                break
            time.sleep(0.001)
    return {name: np.array(value.numpy()) for name, value in results.items()}


def _in_thread(work: Callable[..., Any], *given: Any) -> Any:
    """Return what `work` does in a thread of its own: the caller's may have an event loop running already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *given).result()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what Core AI's native side says while it loads off both outputs; one thread at a time."""
    with _quiet, open(os.devnull, "wb") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, ValueError):  # there is none, or it is closed
                stream.flush()
        kept = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            yield
        finally:
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)


def _require(interpreter: bool) -> None:
    """Raise OSError, with what to do, unless Core AI runs here in the way that is asked for."""
    host, release = sys.platform, platform.mac_ver()[0]
    system = host == "darwin" and int(release.partition(".")[0] or 0) >= _MACOS
    if not interpreter and not system:
        here = f"macOS {release}" if host == "darwin" else host
        raise OSError(
            f"Core AI runs only on macOS {_MACOS} or later, this is {here}; the bundle is complete, open it there, or "
            "check its numbers here with interpreter=true"
        )
    if host == "darwin" and "coreai.runtime" not in sys.modules:
        os.environ.pop("USE_OS_COREAI" if interpreter else "USE_LOCAL_COREAI", None)
        os.environ["USE_LOCAL_COREAI" if interpreter else "USE_OS_COREAI"] = "1"
    import coreai.runtime

    if (installed := version("coreai-core")) != VERSION:
        raise OSError(f"this runs coreai-core {VERSION}, {installed} is installed: pip install coreai-core=={VERSION}")
    if coreai.runtime._use_os_coreai is interpreter:
        raise OSError("Core AI is loaded in the other way, system or interpreter, already; start another process")


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


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
